"""Told to end: every command ends by SIGTERM and SIGHUP as by Ctrl-C, and says which it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import numpy as np
import pytest

import causal_lvlm
from causal_lvlm.app import server
from causal_lvlm.cli import main
from causal_lvlm.cli.ending import told_to_end
from causal_lvlm.items_file import read_lines
from causal_lvlm.lvlm import families
from tests.processes import ENDINGS, ROOT, ctrl_c_raises, started, wait_for

SAMPLE = ROOT / "causal_lvlm" / "tiny" / "samples" / "colour.png"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@pytest.fixture(params=ENDINGS)
def number(request):
    """Return a signal; inside the test this process reacts to it like one that was just started."""
    before = signal.signal(request.param, signal.SIG_DFL)
    with ctrl_c_raises():
        yield request.param
    signal.signal(request.param, before)


def ends(*arguments):
    """Return the exit code of a command."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


COMMANDS = {
    "explain": ["explain", "what color is the star?"],
    "demo": ["demo", "--out", "demo"],
    "evaluate": ["evaluate", "items.jsonl", "--out", "r.jsonl"],
    "learn": ["learn", "data.csv", "--alpha", "0.01"],
    "report": ["report", "e.json"],
    "methods": ["methods"],
    "models": ["models"],
    "app": ["app"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_by_its_exit_code_what_ended_it(
    monkeypatch, tmp_path, capsys, number, name
):
    def told(*arguments, **options):
        signal.raise_signal(number)
        raise AssertionError("the signal was not heard")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "items.jsonl").write_text(f'{{"image": "{SAMPLE}", "prompt": "what?"}}\n')
    (tmp_path / "e.json").write_text('{"kind": "explanation"}')
    np.savetxt("data.csv", np.random.default_rng(0).normal(size=(50, 3)), delimiter=",")
    for function in ("load_model", "list_methods", "learn_structure"):
        if function != "list_methods" or name == "methods":
            monkeypatch.setitem(causal_lvlm.__dict__, function, told)
    monkeypatch.setattr(families, "family_table", told)
    monkeypatch.setattr(server, "serving", told)
    monkeypatch.setattr("causal_lvlm.explanation.result.Explanation.load", told)
    assert ends(*COMMANDS[name]) == 128 + number
    assert "Traceback" not in capsys.readouterr().err
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_what_was_found_is_kept(monkeypatch, tmp_path, capsys, number):
    explain, found = causal_lvlm.explain, []

    def told(*arguments, **options):
        if found:
            signal.raise_signal(number)
        found.append(explain(*arguments, max_runs=20, n_random=0, **options))
        return found[-1]

    monkeypatch.setitem(causal_lvlm.__dict__, "explain", told)
    code = ends("explain", SAMPLE, "what color is the star?", "-t", "yellow", "-t", "yellow",
                "--out", tmp_path)  # fmt: skip
    assert code == 128 + number and len(found) == 1
    assert "interrupted; what had been found was saved" in capsys.readouterr().err
    assert causal_lvlm.Explanation.load(tmp_path / "explanation.json").target.text == "yellow"


def test_two_signals_at_once_are_one_request_and_a_later_one_is_another(monkeypatch, number):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with told_to_end() as ending:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)  # the results are being saved
            clock[0] = 5.0
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert ending.code(1) == 128 + number and ending.code(0) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_was_ignored_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with told_to_end() as ending:
        signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert ending.code(1) == 1 and signal.getsignal(number) is signal.SIG_IGN


def test_a_command_that_is_run_in_a_thread_leaves_signals_alone(capsys):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(ends("methods")))
    thread.start()
    thread.join()
    assert codes == [0] and "relevancy" in capsys.readouterr().out


def test_the_app_ends_tidily(monkeypatch, tmp_path, capsys, number):
    folder = tmp_path / "temporary"

    @contextmanager
    def serving(**options):
        folder.mkdir()
        try:
            yield server.Running("http://127.0.0.1:1/", None, None)
        finally:
            folder.rmdir()

    monkeypatch.setattr(server, "serving", serving)
    monkeypatch.setattr("causal_lvlm.cli.serve.time.sleep", lambda _: signal.raise_signal(number))
    assert ends("app") == 128 + number and not folder.exists()
    assert "the app has ended" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_evaluate_is_really_ended_and_goes_on(tmp_path, jobs):
    image = str(SAMPLE)
    data, out = tmp_path / "items.jsonl", tmp_path / "r.jsonl"
    data.write_text("".join(
        f'{{"image": "{image}", "prompt": "what color is the star?", "id": "{k:02}"}}\n'
        for k in range(60)))  # fmt: skip
    process = started(
        ["-m", "causal_lvlm", "evaluate", data, "--methods", "leave_one_out", "--metrics",
         "deletion,insertion", "--out", out, "--jobs", jobs], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: out.exists() and out.read_bytes().count(b"\n") >= 3, 300)
        process.terminate()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on" in said
    assert 2 <= len(read_lines(out)) < 60
    assert all("result" in line for line in read_lines(out))


@pytest.mark.slow
def test_the_app_leaves_no_folder_and_removes_that_of_one_that_was_killed(tmp_path):
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    left = []
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = started(["-m", "causal_lvlm", "app"], env={"TMPDIR": str(tmp_path)},
                          stdout=subprocess.PIPE, text=True)  # fmt: skip
        try:
            assert process.stdout.readline().startswith("open http://127.0.0.1:")
            left.append(sorted(tmp_path.glob("causal-lvlm-app-*")))
            process.send_signal(number)
            code = process.wait(timeout=120)
        finally:
            process.kill()
    assert [len(folders) for folders in left] == [1, 1] and left[0] != left[1]
    assert code == 128 + signal.SIGTERM and not list(tmp_path.glob("causal-lvlm-app-*"))


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_closed_terminal_loses_nothing(tmp_path):
    """Everything that is written to a terminal that is gone fails; the results must not."""
    code = """
        import fcntl, signal, sys, termios, time
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        from causal_lvlm.cli import main
        import causal_lvlm, causal_lvlm.cli.evaluate_item as item
        def work(value, state, config=None):
            if value["prompt"] == "b":
                print("ready", file=sys.stderr, flush=True)
                time.sleep(600)
            return {"methods": {}}

        item.evaluate_item = work
        causal_lvlm.load_model = lambda *a, **o: None
        main(["evaluate", sys.argv[1], "--out", sys.argv[2]])
    """
    data, out = tmp_path / "items.jsonl", tmp_path / "r.jsonl"
    data.write_text("".join(
        f'{{"image": "{SAMPLE}", "prompt": "{k}", "id": "{k}"}}\n' for k in "ab"))  # fmt: skip
    ours, theirs = os.openpty()
    process = started(
        ["-c", textwrap.dedent(code), data, out],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        said = b""
        while b"ready" not in said:
            assert process.poll() is None, said.decode()
            said += os.read(ours, 1000)
        os.close(ours)
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    finally:
        process.kill()
    assert [line["key"] for line in read_lines(out)] == ["a"]
