"""The page in a real browser: what people do with it, two windows at once, and what it never does.

Needs the extra ``app``, Playwright, and a Chromium that is already there.
"""

from __future__ import annotations

import http.client
import http.server
import importlib
import io
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import zipfile
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra 'app' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)

PATIENCE = 240_000  # milliseconds; a busy machine may be ten times slower than an idle one


@pytest.fixture(scope="module")
def saved(lvlm, samples, tmp_path_factory):
    import causal_lvlm

    folder = tmp_path_factory.mktemp("results")
    trace = lvlm.run(*samples["colour"])
    causal_lvlm.explain(trace, 0, max_runs=60, n_random=2).save(folder / "colour.json")
    return folder


@pytest.fixture(scope="module")
def outside():
    """Addresses other than this machine that anything in this process connects to."""
    reached = []
    original = socket.socket.connect

    def connect(self, address):
        host = address[0] if isinstance(address, tuple) else str(address)
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "::1", "localhost"):
            reached.append(address)
        return original(self, address)

    socket.socket.connect = connect
    yield reached
    socket.socket.connect = original


@pytest.fixture(scope="module")
def running(outside, saved):
    from causal_lvlm.app.server import serving

    with serving(results=saved) as app:
        yield app
    assert not app.bench.folder.exists()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


class Window:
    """A page that remembers what it complained of and whom it asked."""

    def __init__(self, browser, url, size=(1440, 900)):
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.complaints, self.requests = [], []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("#picture .tools, #picture .empty")

    def _said(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def ask(self, name):
        page = self.page
        page.locator("#sample input").click()
        page.get_by_role("option", name=name, exact=True).click()
        page.wait_for_selector("#picture svg image")
        page.locator("#ask").click()
        page.wait_for_selector("#sentence .sentence")

    def upload(self, button, file):
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(button).click()
        chooser.value.set_files(file)

    def explained(self, word):
        self.page.wait_for_function(
            "word => document.querySelector('#sentence').innerText.includes(word)", arg=word
        )

    def close(self, running):
        """Close, and check that nothing was complained of and nobody else was asked."""
        self.context.close()
        assert self.complaints == []
        strangers = [
            url
            for url in self.requests
            if not url.startswith((running.url, "data:", "blob:", "about:"))
        ]
        assert strangers == []


@pytest.mark.slow
def test_a_person_asks_picks_a_token_masks_compares_and_exports(running, browser, tmp_path):
    window = Window(browser, running.url)
    page = window.page
    window.ask("hallucination")
    tokens = page.locator("#tokens button").all_inner_texts()
    assert " ".join(tokens) in page.locator("#chat").inner_text()
    page.locator("#tokens button", has_text="spoon").click()
    window.explained("“spoon” because of the word")  # earlier stages may name patches
    assert page.locator("#tokens button[aria-checked=true]").inner_text() == "spoon"
    assert "Verified" in page.locator("#sentence").inner_text()

    # mask the word that the sentence names: the readout says what the model says then
    page.get_by_role("tab", name="What if?").click()
    word = re.search(r"because of the word “(\w+)”", page.locator("#sentence").inner_text())
    assert word is not None
    page.locator("#mask .word", has_text=re.compile(rf"^{word[1]}\d*$")).click()
    page.wait_for_selector("#readout .masked")
    assert "the model says" in page.locator("#readout").inner_text()
    page.locator("#mask rect.cell").nth(9).click()
    page.wait_for_function("document.querySelector('#readout').innerText.includes('2 masked')")
    page.get_by_role("button", name="Show all again").click()
    page.wait_for_function("!document.querySelector('#readout .masked')")
    # the members of the set carry numbers, and all are hidden by one button
    assert page.locator("#mask .word.member").first.inner_text().startswith(word[1])
    page.get_by_role("button", name="Hide the set").click()
    page.wait_for_selector("#readout .masked")
    assert page.locator("#mask [data-position].on").count() == page.locator("#mask .member").count()
    assert "still says" not in page.locator("#readout").inner_text()

    page.get_by_role("tab", name="Attention").click()
    page.locator("#layer input[type=range]").focus()
    before = page.locator("#heat svg").get_attribute("aria-label")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "before => document.querySelector('#heat svg').getAttribute('aria-label') !== before",
        arg=before,
    )
    assert "layer 1" in page.locator("#heat svg").get_attribute("aria-label")
    page.locator("#matrix button").first.click()
    page.wait_for_selector("#heat svg[aria-label*='layer 0, head 0']")
    page.locator("#heat rect.cell").nth(20).click()
    page.wait_for_selector("#looked .weighed")
    # few heads: all are shown at once, and again for another layer
    page.wait_for_function("document.querySelectorAll('#strip img').length === 4")
    assert "layer 0" in page.locator("#strip").inner_text()
    assert page.locator("#heads").count() == 0
    page.locator("#matrix button").last.click()
    page.wait_for_function("document.querySelector('#strip').innerText.includes('layer 2')")

    page.get_by_role("tab", name="Relevancy").click()
    page.locator("#run-methods").click()
    page.wait_for_function("document.querySelectorAll('#maps figure').length === 4")
    assert page.locator("#maps .scored").first.inner_text().startswith("describe")

    page.get_by_role("tab", name="Export").click()
    for button, name in (
        ("#export-report", "report.html"), ("#export-numbers", "trace.json"),
        ("#export-figures", "figures.zip"),
    ):  # fmt: skip
        page.locator(button).click()
        link = page.locator("#files a[download]", has_text="").first
        page.wait_for_function(
            "name => document.querySelector('#files').innerText.includes(name.split('.')[0])",
            arg=name,
        )
        with page.expect_download() as download:
            link.click()
        path = tmp_path / name
        download.value.save_as(path)
        if name.endswith("html"):
            assert "spoon" in path.read_text("utf-8")
        elif name.endswith("zip"):
            figures_can_be_read(path)
        else:
            assert json.loads(path.read_text("utf-8"))["kind"] in ("trace", "explanation")
    window.close(running)


def figures_can_be_read(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        kinds = {name.rsplit(".", 1)[-1] for name in names}
        assert kinds >= {"png", "pdf", "svg"}
        for name in names:
            content = archive.read(name)
            if name.endswith("png"):
                with Image.open(io.BytesIO(content)) as picture:
                    picture.load()
                    assert min(picture.size) > 50
            elif name.endswith("pdf"):
                assert content.startswith(b"%PDF-") and b"%%EOF" in content[-64:]
            elif name.endswith("svg"):
                assert ElementTree.fromstring(content).tag.endswith("svg")


def test_the_graph_the_tree_and_the_radius_stand_in_the_causal_tab(running, browser):
    window = Window(browser, running.url)
    page = window.page
    window.ask("hallucination")
    page.wait_for_selector("#report iframe")
    box = page.locator("#report iframe").bounding_box()
    assert box["y"] < 450  # on the first screen, before anything else of the tab
    frame = page.query_selector("#report iframe").content_frame()
    frame.wait_for_selector("h2:has-text('Why')")
    assert "square" in frame.locator("h2").first.inner_text()
    # as high as what is in it: the page scrolls, not the frame
    page.wait_for_function("document.querySelector('#report iframe').style.height.endsWith('px')")
    frame.get_by_role("tab", name="Causal graph").click()
    frame.wait_for_selector("#panel .evidence:has-text('What if')")  # first what denies no proof
    frame.get_by_role("radio", name="As learned").click()
    slider = frame.locator("input[type=range]").first
    slider.wait_for()
    most = int(slider.get_attribute("max"))
    assert most > 1 and slider.is_enabled()
    slider.focus()
    page.keyboard.press("Home")
    before = frame.locator("#panel").inner_html()
    page.keyboard.press("End")
    assert int(slider.input_value()) == most
    assert frame.locator("#panel").inner_html() != before
    frame.get_by_role("tab", name="PDS-tree").click()
    frame.wait_for_selector("#panel svg")
    window.close(running)


@pytest.mark.slow
def test_two_prompts_and_two_pictures_are_compared_by_clicks(running, browser, tmp_path):
    window = Window(browser, running.url)
    page = window.page
    window.ask("colour")
    page.get_by_role("tab", name="Compare").click()
    question = page.locator("#question-a textarea")
    assert question.input_value() == "what color is the star?"  # the one that was asked
    page.locator("#run-compare").click()  # B is empty, and so the same question
    page.wait_for_function("document.querySelector('#status').innerText.includes('same question')")
    page.locator("#question-b textarea").fill("what shape is there?")
    page.locator("#run-compare").click()
    page.wait_for_selector("#compared .difference")
    text = page.locator("#compared").inner_text()
    assert re.search(r"Compared: “\w+” of answer A with “\w+” of answer B", text)
    assert re.search(r"\d+ edges? in both, \d+ only in A, \d+ only in B", text)
    assert page.locator("#compared figure").count() == 2
    assert page.locator("#compared .wide img").count() == 1

    other = tmp_path / "other.png"
    from causal_lvlm.tiny import sample_inputs

    chosen = next(s for s in sample_inputs() if s.name == "hallucination")
    Image.open(chosen.image_path).convert("RGB").save(other)
    page.locator("#question-b textarea").fill("")
    question.fill("what color is the square?")
    window.upload("#second", other)
    page.wait_for_selector("#second-shown img")
    page.locator("#run-compare").click()
    page.wait_for_function(
        "document.querySelector('#compared').innerText.includes('B: what color is the square')"
    )
    page.wait_for_selector("#compared .difference")
    pictures = [page.locator("#compared figure img").nth(n).get_attribute("src") for n in range(2)]
    assert pictures[0] != pictures[1]
    assert page.locator("#compared .wide img").count() == 1
    page.locator("#second-none").click()
    page.wait_for_function("!document.querySelector('#second-shown img')")
    window.close(running)


def test_stop_is_answered_while_a_graph_is_still_being_learned(running, browser, monkeypatch):
    module = importlib.import_module("causal_lvlm.explanation.explain")
    begun, go, learn = threading.Event(), threading.Event(), module.learn_graphs

    def slow(*args, **options):
        begun.set()
        assert go.wait(PATIENCE / 1000)
        return learn(*args, **options)

    monkeypatch.setattr(module, "learn_graphs", slow)
    window = Window(browser, running.url)
    page = window.page
    try:
        page.locator("#sample input").click()
        page.get_by_role("option", name="colour", exact=True).click()
        page.wait_for_selector("#picture svg image")
        page.locator("#ask").click()
        page.wait_for_selector("#tokens button")
        assert begun.wait(PATIENCE / 1000)
        page.locator("#stop").click()
        page.wait_for_function("document.querySelector('#status').innerText.includes('Stopped')")
        assert not go.is_set()  # the graph is still in work
        # the page is free: another question is answered, with the graph still in work
        page.locator("#options-box button").first.click()
        page.locator("#auto input").uncheck()
        page.locator("#question textarea").fill("what shape is there?")
        page.locator("#ask").click()
        page.wait_for_function(
            "document.querySelector('#chat').innerText.includes('what shape is there?')"
            " && document.querySelectorAll('#tokens button').length > 0"
        )
        assert not go.is_set()
    finally:
        go.set()
    window.close(running)


def test_painting_over_a_region_changes_what_the_model_is_asked(running, browser):
    window = Window(browser, running.url)
    page = window.page
    page.locator("#sample input").click()
    page.get_by_role("option", name="spoon", exact=True).click()
    page.wait_for_selector("#picture svg image")
    box = page.locator("#picture svg").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 130, steps=6)
    page.mouse.up()
    page.wait_for_function("document.querySelector('#status').innerText.includes('1 stroke')")
    page.locator("#ask").click()
    page.wait_for_selector("#tokens button")
    painted = next(s for s in running.bench._sessions.values() if s.strokes)
    first, second = painted.image, painted.runs.asked().trace.image
    changed = (np.asarray(first) != np.asarray(second)).any(axis=2)
    assert 0.02 < changed.mean() < 0.5
    window.close(running)


@pytest.mark.slow
def test_two_windows_at_once_do_not_disturb_each_other(running, browser):
    first, second = Window(browser, running.url), Window(browser, running.url)
    for window, name in ((first, "caption"), (second, "count")):
        window.page.locator("#sample input").click()
        window.page.get_by_role("option", name=name, exact=True).click()
        window.page.wait_for_selector("#picture svg image")
    first.page.locator("#ask").click()
    second.page.locator("#ask").click()
    for window in (first, second):
        window.page.wait_for_selector("#sentence .sentence")
    answers = [
        " ".join(w.page.locator("#tokens button").all_inner_texts()) for w in (first, second)
    ]
    assert answers == ["a red circle and a white ring and a white triangle", "two"]
    for window in (first, second):
        window.page.get_by_role("tab", name="What if?").click()
    second.page.locator("#mask .word", has_text="squares").click()
    second.page.wait_for_selector("#readout .masked")
    assert first.page.locator("#readout .masked").count() == 0
    first.close(running)
    second.page.locator("#mask .word", has_text="how").click()
    second.page.wait_for_function(
        "document.querySelector('#readout').innerText.includes('2 masked')"
    )
    second.close(running)


def test_a_link_opens_a_saved_explanation_on_a_phone_and_a_bad_one_says_why(running, browser):
    window = Window(browser, running.url + "?open=colour.json", size=(390, 844))
    window.page.wait_for_selector("#sentence .sentence")
    window.page.wait_for_selector("#report iframe")
    assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("Attention", "Relevancy", "Compare", "Export", "Causal"):  # none behind a button
        tab = window.page.locator("#tabs").get_by_role("tab", name=name)
        tab.click()
        box = tab.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
    # what was found stands above the conversation and the options
    places = [window.page.locator(f"#{p}").bounding_box()["y"] for p in ("tokens", "tabs", "chat")]
    assert places == sorted(places)
    window.page.get_by_role("tab", name="What if?").click()
    window.page.locator("#mask .word").first.click()
    window.page.wait_for_selector("#readout .masked")  # it can be asked again
    window.page.goto(running.url + "?open=../../etc/passwd")
    window.page.wait_for_selector("#status .bad")
    assert "no saved explanation" in window.page.locator("#status").inner_text()
    box = window.page.locator("#status .bad").bounding_box()  # seen without scrolling
    assert box["y"] >= 0 and box["y"] + box["height"] <= 844
    window.close(running)


def test_wrong_files_and_wrong_models_are_messages_and_the_page_lives_on(
    running, browser, tmp_path
):
    window = Window(browser, running.url)
    page = window.page
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture at all")
    good = tmp_path / "good.png"
    Image.new("RGB", (64, 64), "#884422").save(good)
    window.upload("#upload", bad)
    page.wait_for_selector("#status .bad")
    assert "no picture" in page.locator("#status").inner_text()
    window.upload("#upload", good)
    page.wait_for_selector("#picture svg image")
    page.locator("#model-box button").first.click()
    name = page.locator("#model-name textarea, #model-name input")
    for _ in range(20):  # a box that just opened may be drawn once more, with its first text
        name.fill("/no/such/model")
        page.wait_for_timeout(200)
        if name.input_value() == "/no/such/model":
            break
    page.locator("#load").click()
    page.wait_for_selector("#status .bad")
    assert "no model folder" in page.locator("#status").inner_text()
    page.locator("#ask").click()
    page.wait_for_function("document.querySelector('#status').innerText.includes('empty')")
    page.locator("#question textarea").fill("what color is the square?")
    page.locator("#ask").click()
    page.wait_for_selector("#tokens button")
    window.close(running)


def test_a_password_is_asked_for_where_one_was_set(browser, lvlm, monkeypatch):
    from causal_lvlm.app import server
    from causal_lvlm.app.guard import Attempts
    from causal_lvlm.app.models import ModelShelf
    from causal_lvlm.app.server import serving

    monkeypatch.setattr(ModelShelf, "_loader", lambda self: lambda name: lvlm)
    monkeypatch.setattr(server, "Attempts", partial(Attempts, free=2))
    with serving(password="correct horse") as app:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        for given, inside in (("wrong", False), ("correct horse", True)):
            page.goto(app.url)
            page.locator("input").nth(0).fill("me")
            page.locator("input[type=password]").fill(given)
            page.get_by_role("button", name="Login").click()
            if inside:
                page.wait_for_selector("#ask")
            else:
                page.wait_for_timeout(500)
                assert page.locator("#ask").count() == 0
        context.close()
        known = {"content_type": "application/x-www-form-urlencoded"}
        tries = [asked(app, "POST", "/login", f"username=a&password={word}".encode(), **known)[0]
                 for word in ("wrong", "wrong", "wrong", "correct+horse")]  # fmt: skip
        assert tries == [400, 400, 429, 429]
        for route in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=a"):
            assert asked(app, "GET", route)[0] == 401


class Stranger(http.server.BaseHTTPRequestHandler):
    """Another site on this machine: its page asks the app for everything it can think of."""

    def do_GET(self):
        body = self.server.page.encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


ATTACK = """<!doctype html><form id="form" method="post" action="URLgradio_api/run/ask"
  enctype="text/plain" target="frame"><input name='{"data":["what?",[],false,false,4],"x":"'
  value='"}'></form><iframe name="frame"></iframe><iframe id="app" src="URL"></iframe>
<script>
const tried = {};
const post = (name, path, options) => fetch("URL" + path, options)
  .then((answer) => { tried[name] = [answer.type, answer.status]; })
  .catch((error) => { tried[name] = ["refused", 0]; });
const file = new FormData();
file.append("files", new Blob(["from a stranger"]), "stranger.png");
const text = JSON.stringify({ data: ["what?", [], false, false, 4], session_hash: "stranger" });
document.getElementById("form").submit();
Promise.all([
  post("read", "config", {}),
  post("upload", "gradio_api/upload", { method: "POST", mode: "no-cors", body: file }),
  post("join", "gradio_api/queue/join", { method: "POST", mode: "no-cors", body: text }),
  post("ask", "gradio_api/call/ask", { method: "POST", mode: "no-cors", body: text }),
  post("cors", "gradio_api/queue/join", { method: "POST", body: text,
       headers: { "content-type": "application/json" } }),
  post("include", "gradio_api/queue/data?session_hash=stranger", { credentials: "include" }),
]).then(() => { window.tried = tried; });
</script>"""


@pytest.fixture
def stranger(running):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    server.page = ATTACK.replace("URL", running.url)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_page_of_another_origin_reaches_nothing(running, browser, stranger):
    sessions, files = set(running.bench._sessions), set(running.bench.room.folder.rglob("*"))
    for origin in (f"http://127.0.0.1:{stranger}/", f"http://localhost:{stranger}/"):
        context = browser.new_context()
        page = context.new_page()
        answers: list[tuple[str, int]] = []
        page.on("response", lambda answer, to=answers: to.append((answer.url, answer.status)))
        page.goto(origin)
        page.wait_for_function("window.tried", timeout=PATIENCE)
        page.wait_for_timeout(300)  # the frames
        tried = page.evaluate("window.tried")
        assert all(kind != "cors" or status == 403 for kind, status in tried.values()), tried
        ours = [(url, status) for url, status in answers if url.startswith(running.url)]
        assert ours and {status for _, status in ours} == {403}
        context.close()
    assert set(running.bench._sessions) == sessions
    assert set(running.bench.room.folder.rglob("*")) == files


def test_a_link_on_another_page_opens_the_app(running, browser, stranger):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://127.0.0.1:{stranger}/")
    page.evaluate("url => { location.href = url; }", running.url + "?open=colour.json")
    page.wait_for_selector("#sentence .sentence")
    context.close()


def asked(running, method, path, body=b"", **headers):
    """Return status and text of a plain request."""
    port = int(running.url.rstrip("/").rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE / 1000)
    connection.putrequest(method, path, skip_host="host" in headers)
    for name, value in {"content-length": str(len(body)), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, text


def test_only_its_own_names_are_answered(running):
    port = running.url.rstrip("/").rsplit(":", 1)[1]
    for path in ("/", "/config", "/gradio_api/info", "/theme.css", "/gradio_api/queue/data"):
        status, text = asked(running, "GET", path, host=f"rebound.example:{port}")
        assert status == 403 and "rebound.example" in text and "/" not in text
    assert asked(running, "GET", "/", host=f"localhost:{port}")[0] == 200
    assert asked(running, "GET", "/config")[0] == 200


def test_files_of_the_server_are_not_served_nor_named(running, tmp_path):
    for path in (
        "/etc/passwd", str(Path(__file__)), str(running.bench.folder), "../../etc/passwd",
        str(running.bench.folder / "gradio" / ".." / ".." / "x"),
    ):  # fmt: skip
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"):
            status, text = asked(running, "GET", route + path)
            assert status in (400, 403, 404, 405), (route, path)
            assert "root:" not in text and "import" not in text and str(tmp_path.parent) not in text
    # a file that was never handed in, as if it had been
    handed = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    for api, data in (
        ("ask", [handed, [], False, False, 4]), ("example", [handed]),
    ):  # fmt: skip
        body = json.dumps({"data": data}).encode()
        status, text = asked(running, "POST", f"/gradio_api/call/{api}", body,
                             content_type="application/json")  # fmt: skip
        if status == 200:
            event = json.loads(text)["event_id"]
            status, text = asked(running, "GET", f"/gradio_api/call/{api}/{event}")
        assert "root:" not in text
        assert str(Path.cwd()) not in text and tempfile.gettempdir() not in text


def test_it_listens_on_this_machine_alone(running):
    port = int(running.url.rstrip("/").rsplit(":", 1)[1])
    assert running.url.startswith("http://127.0.0.1:")
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in others - {"127.0.0.1", "::1", "127.0.1.1"}:
        with pytest.raises(OSError):
            socket.create_connection((address, port), timeout=2).close()


@pytest.mark.slow
def test_ten_programs_ask_at_once_and_each_gets_its_own_answer(running, samples):
    client = pytest.importorskip("gradio_client")
    names = list(samples)
    answers, errors = {}, []

    def person(number):
        try:
            patient = {"timeout": PATIENCE / 1000}
            asking = client.Client(running.url, verbose=False, httpx_kwargs=patient)
            name = names[number % len(names)]
            asking.predict(name, api_name="/example")
            job = asking.submit(samples[name][1], [], False, False, 64, api_name="/ask")
            job.result(PATIENCE / 1000)
            # each step tells only what changed: the last conversation among them is the answer
            chats = [out[1] for out in job.outputs() if isinstance(out[1], list) and out[1]]
            answers[number] = chats[-1][-1]["content"]
        except Exception as error:
            errors.append(error)

    people = [threading.Thread(target=person, args=(number,)) for number in range(10)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join(PATIENCE / 1000)
    assert not errors
    for number, answer in answers.items():
        text = answer if isinstance(answer, str) else answer[0]["text"]
        assert text == answers_alone(running, samples)[names[number % len(names)]]
    assert len(answers) == 10


_ALONE = {}


def answers_alone(running, samples):
    if not _ALONE:
        model = running.bench.models.get("")
        _ALONE.update({name: model.run(*samples[name]).answer for name in samples})
    return _ALONE


def test_nothing_left_this_machine_and_nothing_was_written_elsewhere(running, outside):
    assert outside == []
    assert Path(os.environ["GRADIO_TEMP_DIR"]).is_relative_to(running.bench.folder)
