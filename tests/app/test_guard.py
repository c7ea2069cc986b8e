"""Who may ask the app, and how much: without Gradio and without a network."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from causal_lvlm.app import guard
from causal_lvlm.app.guard import AppError, Attempts, Guard, Hosts
from causal_lvlm.app.room import Room, Taken
from causal_lvlm.app.turns import BusyError
from causal_lvlm.errors import OutputError

OURS = [("host", "127.0.0.1:7860")]


async def app(scope, receive, send):
    """Read a body, and answer with its length; logins with the body ``right`` succeed."""
    body, more = b"", scope["type"] == "http"
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    wrong = scope["path"].startswith("/login") and body != b"right"
    await send({"type": "http.response.start", "status": 400 if wrong else 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def ask(guarded, headers=OURS, *, method="GET", path="/", body=b"", chunks=None, client="9.9.9.9",
        kind="http"):  # fmt: skip
    """Return status and text."""
    said, parts = [], [body] if chunks is None else list(chunks)

    async def receive():
        return {"type": f"{kind}.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        said.append(message)

    scope = {
        "type": kind, "method": method, "path": path, "client": (client, 5),
        "headers": [(n.encode(), v.encode("latin-1")) for n, v in headers],
    }  # fmt: skip
    asyncio.run(guarded(scope, receive, send))
    if kind == "websocket":
        return said[0]["type"], ""
    return said[0]["status"], said[-1]["body"].decode()


@pytest.fixture
def guarded(tmp_path):
    return Guard(
        app, hosts=Hosts("127.0.0.1"), attempts=Attempts(), room=Room(tmp_path, 10_000), upload=1000
    )


def answers(hosts, headers, **how):
    room = Room(None, 1)
    return ask(Guard(app, hosts=hosts, attempts=Attempts(), room=room, upload=1), headers, **how)[0]


@pytest.mark.parametrize(("listening", "more", "good", "bad"), [
    ("127.0.0.1", [], ["127.0.0.1:7860", "localhost:7860", "LocalHost", "localhost.", "[::1]:80"],
     ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "10.0.0.1:7860", "",
      "localhost@evil.example", "localhost:7860/", "localhost#", "[::1", "::1", "\xe9"]),
    ("0.0.0.0", [], ["192.0.2.7:7860", "localhost", "[2001:db8::1]:7860"], ["evil.example"]),
    ("::", [], ["192.0.2.7:7860", "[2001:db8::1]:7860"], ["evil.example"]),
    ("192.0.2.7", [], ["192.0.2.7:7860", "127.0.0.1:1"], ["192.0.2.8:7860", "evil.example"]),
    ("127.0.0.1", ["Lab.Example."], ["lab.example", "lab.example:8080"], ["x.lab.example"]),
    ("::1", [], ["[::1]:7860", "localhost:1"], ["[::2]:7860"]),
])  # fmt: skip
def test_the_app_answers_under_its_own_names_alone(listening, more, good, bad):
    hosts = Hosts(listening, more)
    for name in good:
        assert answers(hosts, [("host", name)]) == 200, name
    for name in bad:
        assert answers(hosts, [("host", name)]) == 403, name
    assert answers(hosts, []) == 403
    assert answers(hosts, [("host", good[0]), ("host", good[0])]) == 403


def test_public_links_are_answered_only_where_one_was_asked_for():
    headers = [("host", "abc.gradio.live"), ("origin", "https://abc.gradio.live")]
    assert answers(Hosts("127.0.0.1", shared=True), headers) == 200
    assert answers(Hosts("127.0.0.1"), headers) == 403
    headers[1] = ("origin", "https://other.gradio.live")
    assert answers(Hosts("127.0.0.1", shared=True), headers) == 403


def test_names_are_checked_when_they_are_given():
    for name in ("http://a", "a/b", "", "a:1", "[::1]:1"):
        with pytest.raises(AppError, match="no name of a host"):
            Hosts("127.0.0.1", [name])


@pytest.mark.parametrize(("headers", "status"), [
    ([], 200),  # a program
    ([("origin", "http://127.0.0.1:7860")], 200),
    ([("origin", "http://127.0.0.1:9999")], 403),  # another server on this machine
    ([("origin", "http://localhost:7860")], 403),
    ([("origin", "https://127.0.0.1:7860")], 200),  # behind a proxy
    ([("origin", "https://evil.example")], 403),
    ([("origin", "null")], 403),
    ([("origin", "file://")], 403),
    ([("origin", "")], 403),
    ([("origin", "http://127.0.0.1:7860"), ("origin", "http://127.0.0.1:7860")], 403),
    ([("origin", "http://127.0.0.1:7860.evil.example")], 403),
    ([("sec-fetch-site", "same-origin")], 200),
    ([("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")], 200),
    ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], 403),  # <img src=...>
    ([("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")], 403),
    ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"),
      ("sec-fetch-dest", "iframe")], 403),
    ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"),
      ("sec-fetch-dest", "document")], 200),  # a link
])  # fmt: skip
def test_other_pages_are_refused(guarded, headers, status):
    assert ask(guarded, [*OURS, *headers])[0] == status


def test_other_pages_are_refused_in_every_way_of_asking(guarded):
    bad = [*OURS, ("origin", "http://evil.example")]
    link = [*OURS, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document")]  # fmt: skip
    for method, path in (
        ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join"), ("OPTIONS", "/"),
        ("GET", "/gradio_api/queue/data"), ("POST", "/login"), ("PUT", "/"), ("HEAD", "/config"),
    ):  # fmt: skip
        assert ask(guarded, bad, method=method, path=path)[0] == 403
        assert ask(guarded, link, method=method, path=path)[0] == 403
    assert ask(guarded, link, path="/logout")[0] == 403
    assert ask(guarded, bad, kind="websocket")[0] == "websocket.close"
    assert ask(guarded, kind="websocket")[0] == "websocket.accept"
    assert len(ask(guarded, [("host", "x" * 10**6)])[1]) < 300


def test_wrong_passwords_are_answered_later_and_later_and_then_not_looked_at(guarded, monkeypatch):
    clock, slept = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    def login(body, client="9.9.9.9"):
        return ask(guarded, method="POST", path="/login", body=body, client=client)[0]

    assert [login(b"wrong") for _ in range(5)] == [400] * 5
    assert slept == [0.25, 0.5, 1.0, 2.0, 4.0]
    status, text = ask(guarded, method="POST", path="/login/", body=b"right")
    assert status == 429 and "try again in 9 seconds" in text
    assert login(b"right", "8.8.8.8") == 200  # another address
    clock[0] += 8.5
    assert login(b"wrong") == 400
    clock[0] += 8.5
    assert login(b"right") == 429  # twice as long now
    clock[0] += 8.5
    assert login(b"right") == 200
    assert login(b"wrong") == 400 and slept[-1] == 0.25  # forgiven


def test_many_addresses_and_many_attempts_at_once_are_bounded(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    attempts = Attempts(total=50, within=100)
    looked_at = 0
    for number in range(1000):
        if attempts.wait(f"10.0.{number}") == 0:
            attempts.begin(f"10.0.{number}")
            looked_at += 1
    assert looked_at == 50
    clock[0] = 101.0
    assert attempts.wait("10.0.1") == 0
    at_once = [attempts.begin("1.1.1.1") for _ in range(20) if attempts.wait("1.1.1.1") == 0]
    assert len(at_once) == 5


def test_bodies_are_bounded_whether_or_not_they_say_their_length(guarded, monkeypatch):
    monkeypatch.setattr(guard, "MAX_BODY", 100)
    guarded.upload = 500

    def post(path, size, *, said=True):
        headers = [*OURS, ("content-length", str(size))] if said else OURS
        return ask(guarded, headers, method="POST", path=path, chunks=[b"x" * 10] * (size // 10))

    assert post("/gradio_api/queue/join", 100) == (200, "100")
    assert post("/gradio_api/queue/join", 110)[0] == 413
    assert post("/gradio_api/queue/join", 110, said=False)[0] == 413
    assert post("/gradio_api/upload", 500) == (200, "500")
    assert post("/gradio_api/upload", 510)[0] == 413
    assert post("/gradio_api/upload", 510, said=False)[0] == 413
    assert post("/gradio_api/upload", 9_000)[0] == 413


def old(path, size, age):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)


def test_old_files_make_room_for_uploads_and_fresh_ones_stay(guarded, tmp_path):
    guarded.room.most = 1000
    for number in range(8):
        old(tmp_path / str(number) / "a.png", 100, 1000 - number)
    headers = [*OURS, ("content-length", "400")]
    upload = {"method": "POST", "path": "/gradio_api/upload", "body": b"x" * 400}
    assert ask(guarded, headers, **upload)[0] == 200
    assert sorted(path.parent.name for path in tmp_path.rglob("*.png")) == list("234567")
    for number in range(8):
        old(tmp_path / str(number) / "a.png", 100, 5)
    status, text = ask(guarded, headers, **upload)
    assert status == 413 and "no room" in text
    assert len(list(tmp_path.rglob("*.png"))) == 8


def test_the_number_of_files_is_bounded_too(tmp_path):
    room = Room(tmp_path, 10**6, files=4)
    for number in range(6):
        old(tmp_path / str(number) / "a", 1, 1000 - number)
    room.make()
    assert sorted(path.parent.name for path in tmp_path.rglob("a")) == list("345")
    Room(tmp_path / "not there", 1).make()


def test_what_a_page_hands_in_is_counted(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    taken = Taken(3, 250)
    assert [taken.count(path) for _ in range(2)] == [path, path]
    with pytest.raises(BusyError, match="ten minutes"):
        taken.count(path)  # bytes
    path.write_bytes(b"x")
    taken.count(path)
    with pytest.raises(BusyError, match="at most 3 files"):
        taken.count(path)
    clock[0] = 601.0
    taken.count(path)
    with pytest.raises(OutputError, match="is gone"):
        taken.count(tmp_path / "b")
