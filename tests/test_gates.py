"""Gates that keep faults of structure out: circles, complexity, undocumented parameters, examples.

``tests/data/allowed.json`` lists what was there when each gate was set up. It may only get shorter:
a new entry fails, and so does one that is no longer needed.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import causal_lvlm as cl
from tests.imports import MODULES, ROOT, circles, import_graph

ALLOWED = json.loads((ROOT / "tests" / "data" / "allowed.json").read_text(encoding="utf-8"))


def same_as_allowed(found: list, kind: str) -> None:
    """Fail for what is new, and for what is listed and gone."""
    new = [f for f in found if f not in ALLOWED[kind]]
    gone = [a for a in ALLOWED[kind] if a not in found]
    assert not new, f"new {kind} (see {Path(__file__).name}): {new}"
    assert not gone, f"take out of allowed.json, {kind}: {gone}"


def test_circles_are_found_in_functions_and_in_type_checking_blocks():
    lazy = {"a": "def f():\n    import b", "b": "from c import x", "c": "import a", "d": "import a"}
    typed = {
        "p": "import p.q",
        "p.q": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import q, r",
    }
    assert circles(import_graph(lazy)) == [["a", "b", "c"]]
    assert circles(import_graph(typed)) == [["p", "p.q"]]
    assert circles(import_graph({"a": "import b", "b": "import numpy"})) == []


def test_there_is_no_import_circle():
    found = circles(import_graph())
    assert not found, f"modules import each other: {found}; move what both need further inside"


@pytest.mark.parametrize(
    ("rule", "options"),
    [("C901", []), ("PLR0913", ["--config", "lint.pylint.max-args=12"])],
    ids=["branches", "arguments"],
)
def test_no_new_function_is_too_complex_or_takes_more_than_12_arguments(rule, options):
    run = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", rule, *options, "--no-cache",
         "--output-format", "json", "causal_lvlm", "kernels", "experiments", "tests"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode in (0, 1), run.stderr
    found = []
    for item in json.loads(run.stdout):
        file = Path(item["filename"]).relative_to(ROOT)
        line = file.read_text(encoding="utf-8").splitlines()[item["location"]["row"] - 1]
        found.append(f"{file.as_posix()}: {line.split('(')[0].split()[-1]}")
    same_as_allowed(sorted(found), rule)


def documented_parameters(text: str) -> list[str] | None:
    """Return the names in the Parameters section of a numpydoc docstring, None without one."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-{3,}|\Z)", text, re.S | re.M)
    if section is None:
        return None
    heads = [line for line in section[1].splitlines() if line.strip() and line[0] != " "]
    return [n.strip().lstrip("*") for head in heads for n in head.split(" : ")[0].split(",")]


def test_parameters_are_read_from_numpydoc():
    text = (
        "Do.\n\nParameters\n----------\na, b : int\n    Two.\n*rest\n\nReturns\n-------\nc : int\n"
    )
    assert documented_parameters(text) == ["a", "b", "rest"]
    assert documented_parameters("Do.") is None


def public_callables():
    for name in cl.__all__:
        value = getattr(cl, name)
        if inspect.isfunction(value):
            yield name, value
            continue
        for own, member in vars(value).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and not own.startswith("_"):
                yield f"{name}.{own}", function


def undocumented() -> list[str]:
    """Return the public functions whose docstring and signature name different parameters."""
    found = []
    for name, function in public_callables():
        signature = inspect.signature(function).parameters
        forwarded = {n for n, p in signature.items() if p.kind is p.VAR_KEYWORD}
        needed = set(signature) - forwarded - {"self", "cls"}
        text = inspect.getdoc(function) or ""
        documented = set(documented_parameters(text) or ())
        # What only forwards may point to the place where its parameters are described.
        pointer = re.search(r"[Ss]ee `(causal_lvlm\.[\w.]+)`", text)
        if pointer and not needed <= documented:
            there = inspect.getdoc(pkgutil.resolve_name(pointer[1])) or ""
            documented |= needed & set(documented_parameters(there) or ())
        wrong = needed - documented if forwarded else needed ^ documented
        if wrong:
            found.append(f"{name}: {', '.join(sorted(wrong))}")
    return found


def test_every_parameter_of_the_public_api_is_documented():
    same_as_allowed(undocumented(), "undocumented")


@pytest.mark.parametrize(
    "name", [n for n, f in MODULES.items() if ">>>" in f.read_text(encoding="utf-8")]
)
def test_examples_in_docstrings_print_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0, "an example that is skipped proves nothing"
    assert result.failed == 0
