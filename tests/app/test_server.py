"""Starting the app: what is refused, what is said, and what is left behind. Needs no Gradio."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from causal_lvlm.app import server
from causal_lvlm.app.attention import AnswerAttention
from causal_lvlm.app.errors import error_text
from causal_lvlm.app.export import embedded, export
from causal_lvlm.app.maps import heads_html, maps_html
from causal_lvlm.app.view import (
    answer_tokens,
    attention_board,
    frame_html,
    mask_board,
    status_html,
)
from causal_lvlm.cli import app as command
from causal_lvlm.errors import OutputError, PromptError
from tests.app.conftest import last


def test_without_gradio_the_command_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("page", "handlers", "following", "parts"):
        monkeypatch.delitem(sys.modules, f"causal_lvlm.app.{name}", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = CliRunner().invoke(command, ["app"])
    assert done.exit_code == 2
    assert 'pip install "causal-lvlm[app]"' in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_of_results_that_is_not_there_is_refused(tmp_path):
    with (
        pytest.raises(OutputError, match="no folder"),
        server.serving(results=tmp_path / "none"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "any_model"),
    [({}, True), ({"host": "0.0.0.0"}, False), ({"share": True}, False),
     ({"host": "0.0.0.0", "any_model": True}, True), ({"any_model": False}, False),
     ({"allow_hosts": ["example.org"]}, False)],
)  # fmt: skip
def test_other_machines_load_only_the_models_that_were_named(monkeypatch, options, any_model):
    launched = {}

    class Page:
        def close(self, verbose):
            launched["closed"] = True

    def launch(host, port, share, password):
        launched.update(host=host, share=share, env=dict(os.environ))  # type: ignore[call-overload]
        return None, "http://127.0.0.1:1/", ""

    monkeypatch.setattr(server, "_page", lambda bench, hosts: (Page(), launch))
    monkeypatch.setattr(server, "_warm_up", lambda: None)
    monkeypatch.setattr("causal_lvlm.app.models.ModelShelf._loader", lambda self: lambda name: name)
    before = dict(os.environ)
    with server.serving(models=["ours"], password="x", **options) as running:
        shelf = running.bench.models
        assert shelf.get("ours") and "ours" in shelf.names
        if any_model:
            assert shelf.get("theirs") and "theirs" in shelf.names
        else:
            with pytest.raises(ValueError, match="does not load"):
                shelf.get("theirs")
        folder = running.bench.folder
    assert launched["host"] == options.get("host", "127.0.0.1")
    assert launched["share"] is options.get("share", False)
    assert launched["env"]["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert Path(launched["env"]["GRADIO_TEMP_DIR"]).is_relative_to(folder)
    assert launched["closed"] and not folder.exists()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "options",
    [["--host", "0.0.0.0"], ["--host", "::"], ["--host", "192.0.2.7"], ["--host", "example.org"],
     ["--share"], ["--allow-host", "example.org"]],
)  # fmt: skip
def test_where_others_could_come_in_a_password_is_needed(monkeypatch, options):
    @contextmanager
    def bench(*arguments):
        raise server.AppError("not today")
        yield

    monkeypatch.setattr(server, "Workbench", bench)
    for password, more, said in (
        ("", [], "set a password"), ("x", [], "not today"), ("", ["--no-password"], "not today"),
    ):  # fmt: skip
        monkeypatch.setenv("CAUSAL_LVLM_PASSWORD", password)
        done = CliRunner().invoke(command, ["app", *options, *more])
        assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST.", "::1"])
def test_on_this_machine_alone_no_password_is_needed(monkeypatch, host):
    @contextmanager
    def bench(*arguments):
        raise server.AppError("not today")
        yield

    monkeypatch.setattr(server, "Workbench", bench)
    monkeypatch.delenv("CAUSAL_LVLM_PASSWORD", raising=False)
    done = CliRunner().invoke(command, ["app", "--host", host])
    assert done.exit_code == 2 and "not today" in done.stderr


@pytest.mark.parametrize(
    "name", ["http://example.org", "example.org/x", "example.org:80", "a b", "/" * 10**6]
)
def test_a_name_that_is_no_host_is_refused(name):
    done = CliRunner().invoke(command, ["app", "--allow-host", name, "--no-password"])
    assert done.exit_code == 2 and "is no name of a host" in done.stderr
    assert len(done.stderr) < 500


def test_errors_become_one_line_and_nothing_is_html():
    assert status_html("<img src=x onerror=alert(1)>").count("<img") == 0
    assert error_text(PromptError("the prompt\nis empty")) == "The prompt is empty"
    assert "Memory ran out" in error_text(MemoryError())
    assert "Memory ran out" in error_text(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert error_text(KeyError("x")).startswith("Something failed (KeyError)")
    framed = frame_html('<script>"</script>', '"><b>')
    assert "<script>" not in framed and "<b>" not in framed
    assert 'sandbox="allow-scripts"' in framed
    assert "<b>x" not in maps_html(None, [("<b>x", "<i>y")])


def test_errors_are_short_and_say_no_path_of_the_server():
    where = "/srv/secret place/causal-lvlm-app-x1/page-7"
    for error in (
        OutputError(f"cannot read {where + '/e.json'!r}: no such file"),
        FileNotFoundError(2, "No such file", f"{where}/e.json"),
        ValueError("bad value in /srv/secret/e.json, line 3"),
        ValueError("(/srv/secret/deep/e.json)"),
        KeyError("/srv/secret/e.json"),
        OSError(r"cannot open 'C:\\srv\\secret\\e.json'"),
        ValueError(r"a C:\srv\secret\e.json"),
        ValueError("in ~/secret/e.json:12: syntax"),
        ValueError('File "/srv/secret/e.json", line 1'),
    ):
        told = error_text(error)
        assert "e.json" in told
        assert not any(part in told for part in ("srv", "secret", "page-7"))
    for kept in ("give a/b or c", "see https://example.org/a/b", "1/2 and 3/4", "org/model is no"):
        assert error_text(ValueError(kept))[1:] == kept[1:]
    assert len(error_text(PromptError("no word " + repr("x" * 10**6)))) < 500
    assert len(error_text(RuntimeError("y " * 10**6))) < 500


def test_exports_hold_what_was_found_and_nothing_without_it(bench, samples):
    page = bench.session("a")
    asked = last(page.ask(*samples["colour"]))[0].value
    with pytest.raises(PromptError, match="nothing is explained"):
        export(page, asked, "report")
    last(page.explain(max_runs=40, n_random=0))
    last(page.attribute(["attention"]))
    numbers = {path.name: path for path in export(page, asked, "numbers")}
    kinds = {name: json.loads(path.read_text("utf-8"))["kind"] for name, path in numbers.items()}
    assert kinds["trace.json"] == "trace" and kinds["explanation.json"] == "explanation"
    assert "attribution" in kinds.values()
    (report,) = export(page, asked, "report")
    assert asked.target.text in report.read_text("utf-8")
    assert all(path.is_relative_to(page.folder) for path in [*numbers.values(), report])
    with pytest.raises(ValueError, match="kind must be"):
        export(page, asked, "all")


def test_tokens_that_looked_are_weighed_by_the_largest(bench, samples):
    page = bench.session("a")
    asked = last(page.ask(*samples["caption"]))[0].value
    found = last(page.attention())[0].value
    assert isinstance(found, AnswerAttention)
    weights = found.looked_at((5,), 0, None)
    shown = json.loads(answer_tokens(asked, weights, label="x"))["tokens"]
    assert max(token[2] for token in shown) == 1.0
    assert [token[2] for token in shown] == pytest.approx(list(weights / weights.max()))
    assert not any(token[1] for token in shown)  # to be read, not to be chosen


def test_a_report_in_a_frame_keeps_all_that_it_says_and_its_shield():
    page = "<html><head><title>t</title></head><body><main>it</main>&lt;/body&gt;</body></html>"
    framed = embedded(page)
    assert framed.index("<style>") < framed.index("</head>") < framed.index("<main>it</main>")
    assert framed.index("reportHeight") < framed.rindex("</body>")
    assert framed.count("</body>") == 1 and "&lt;/body&gt;" in framed


def test_the_live_board_numbers_the_members_of_the_set_and_offers_to_hide_it(bench, samples):
    page = bench.session("a")
    asked = last(page.ask(*samples["hallucination"]))[0].value
    before = json.loads(mask_board(asked, asked.units()))
    assert before["members"] == [] and before["offer"] is None
    found = last(page.explain())[0].value
    board = json.loads(mask_board(asked, asked.units()))
    assert board["members"] == [list(unit) for unit in found.main.units] != []
    assert board["offer"] == {"text": "Hide the set", "positions": list(found.main.positions)}
    assert board["key"] == before["key"]  # so that what is hidden stays hidden
    free = {cell[4] for cell in board["pictures"][0]["cells"]} | {w[0] for w in board["words"]}
    assert free.issuperset(found.main.positions)
    page.look_at(0)
    assert json.loads(mask_board(asked, asked.units()))["key"] != board["key"]


def test_a_set_that_is_kept_is_offered_as_the_rest_to_be_hidden(bench, samples):
    page = bench.session("a")
    asked = last(page.ask(*samples["colour"]))[0].value
    found = last(page.explain(mode="sufficient", max_runs=60, n_random=0))[0].value
    assert found.main.verified
    offer = json.loads(mask_board(asked, asked.units()))["offer"]
    assert offer["text"] == "Hide all but the set"
    units = asked.units().unit_of()
    assert sorted([*offer["positions"], *found.main.positions]) == sorted(units)
    masked = last(page.mask([offer["positions"]]))[0].value
    assert not masked.changed


def test_every_picture_of_a_run_has_a_board_a_map_and_a_strip(bench, samples, lvlm):
    images = [samples["colour"][0], samples["count"][0]]
    trace = lvlm.run(images, "<image> <image> what color is the star?", max_new_tokens=2)
    page = bench.session("a")
    asked = page.runs.add(trace, "what?")
    page.look_at(0)
    found = last(page.attention())[0].value
    mask = json.loads(mask_board(asked, asked.units()))
    heat = json.loads(attention_board(asked, found, 0, 0, None))
    for board in (mask, heat):
        cells = [cell[4] for picture in board["pictures"] for cell in picture["cells"]]
        assert cells == trace.layout.positions("image").tolist() and len(cells) == 128
        assert [p["image"] for p in board["pictures"]] == [p["image"] for p in mask["pictures"]]
    assert mask["pictures"][0]["image"] != mask["pictures"][1]["image"]
    row = found.row(0, 0, None)
    shares = {w[0]: w[3] for w in heat["words"]}
    shares |= {c[4]: c[6] for picture in heat["pictures"] for c in picture["cells"]}
    assert shares == {p: float(row[p]) for p in shares}
    assert heat["highest"] == max(shares.values())
    assert heads_html(asked, 0).count("<img") == 2 * found.n_heads
    last(page.attribute(["attention"]))
    assert maps_html(asked, list(asked.attributions.values())).count("<img") == 2


def test_maps_show_the_scores_of_words_on_the_scale_of_the_patches(bench, samples):
    page = bench.session("a")
    asked = last(page.ask(*samples["hallucination"]))[0].value
    found = last(page.explain())[0].value
    last(page.attribute(["causal", "integrated_gradients", "rollout"]))
    maps = {a.method: maps_html(asked, [a]) for a in asked.attributions.values()}
    for word in ("describe", "spoon"):
        assert all(f">{word}</span>" in html for html in maps.values())
    # the causal map is read from the explanation that is there: no run of its own
    causal = next(a for a in asked.attributions.values() if a.method == "causal")
    assert causal.model_runs == found.model_runs
    best = max(range(len(causal.scores)), key=lambda p: causal.scores[p])
    assert best in found.main.positions
    assert 'class="signed"' in maps["integrated_gradients"]
    assert 'class="unsigned"' in maps["rollout"]
    assert "1 model run," in maps["rollout"] and "1 model runs" not in maps["rollout"]


def test_methods_are_grouped_and_none_is_missing():
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    import causal_lvlm
    from causal_lvlm.app.choices import method_groups

    offered = [name for choices in method_groups().values() for _, name in choices]
    assert sorted(offered) == sorted(m.name for m in causal_lvlm.list_methods())


def test_patented_methods_run_only_for_whoever_says_to_have_read_the_note(bench, samples):
    page = bench.session("a")
    last(page.ask(*samples["colour"]))
    refused = last(page.attribute(["lrp"]))[1]
    assert "patent" in refused[0][1][1]
    ran = last(page.attribute(["lrp"], accept_patent_note=True))[1]
    assert ran[0][1].method == "lrp"
