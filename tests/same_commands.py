"""The commands that `tests.same_results` compares: what each prints and writes, without times."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.tiny import sample_inputs

Items = Iterator[tuple[str, Callable[[], Any]]]
EXPLAINED = ("explain", "PICTURE", "PROMPT", "--target", "yellow")
COMMANDS: dict[str, tuple[str, ...]] = {
    "explain": (*EXPLAINED, "--out", "a"),
    "explain, all": (*EXPLAINED, "--method", "relevancy", "--faithfulness", "--stability", "5",
                     "--heads", "--out", "b"),
    "report": ("report", "a", "--out", "page.html"),
    "learn": ("learn", "data.csv", "--alpha", "0.01", "--out", "graph"),
    "evaluate": ("evaluate", "items.jsonl", "--methods", "relevancy,causal", "--metrics",
                 "deletion,sufficiency", "--out", "results.jsonl"),
    "methods": ("methods",),
    "models": ("models",),
    "wrong target": (*EXPLAINED[:-1], "nonsense", "--out", "c"),
    "wrong option": (*EXPLAINED, "--mode", "maybe", "--out", "d"),
    "wrong folder": ("report", "nowhere", "--out", "p.html"),
}  # fmt: skip
TIME = re.compile(r'\d[\d.,]* (s|ms|seconds|minutes|MiB|MB)\b|"seconds": ?[\d.e+-]+|\d\d:\d\d')


def of_commands(model: Any) -> Items:
    sample = next(s for s in sample_inputs() if s.name == "colour")
    values = np.random.default_rng(0).normal(size=(200, 6)).cumsum(axis=1)
    words = {"PICTURE": "picture.png", "PROMPT": sample.prompt}
    picture = Path(sample.image_path).read_bytes()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        Path("picture.png").write_bytes(picture)
        np.savetxt("data.csv", values, delimiter=",", header="a,b,c,d,e,f", comments="")
        item = {"image": words["PICTURE"], "prompt": sample.prompt, "target": "yellow"}
        Path("items.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")
        for label, command in COMMANDS.items():
            yield label, partial(_commanded, [words.get(word, word) for word in command])


def _commanded(command: list[str]) -> Any:
    """Run a command in this process; return what it prints and writes, without times."""
    from typer.testing import CliRunner

    from causal_lvlm.cli import app

    there = {p: p.stat().st_mtime_ns for p in Path().rglob("*")}
    result = CliRunner().invoke(app, command)
    written = {}
    for path in sorted(p for p in Path().rglob("*") if p.is_file()):
        if there.get(path) == path.stat().st_mtime_ns:
            continue
        if path.suffix == ".json":
            written[str(path)] = json.loads(path.read_text("utf-8"))
        elif path.suffix == ".jsonl":
            written[str(path)] = [json.loads(line) for line in path.open(encoding="utf-8")]
        elif path.suffix in (".html", ".md", ".txt", ".csv", ".dot", ".graphml"):
            written[str(path)] = TIME.sub("T", path.read_text("utf-8"))
        else:
            written[str(path)] = "there"
    error = result.exception if isinstance(result.exception, SystemExit) else result.exc_info[1]
    said = [line for line in result.stderr.splitlines() if line.startswith("causal-lvlm")]
    if command[0] != "evaluate":  # whose table has a column of seconds
        said.append(TIME.sub("T", result.stdout))
    return [result.exit_code, said, str(error), written]
