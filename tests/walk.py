"""How far a reader walks who follows `explain`, or `report`, from the call to its result.

The route is read from a traced run on the embedded model:

1. Every call of a Python function of the package is noted, at its first call only, if it is handed
   the question: a `TokenLayout`, `Target` or `Units`, or an object of the package that holds one
   (a trace, an explanation, what asks for masks, a search). A property is no call: it looks like
   data where it is used.
2. Of those, a call from another module sends the reader there. (A helper beside its caller is read
   where the reader is, and nobody turns a page to come back from a call.)
3. Reading stops at the seam (`causal_lvlm.lvlm`: what is called there, and what it calls), and
   `LEAVES` are words that a reader knows.
4. A *stay* is a module visited, in order; calls into one module that follow each other are one
   stay. A *climb* is a step to a module that imports the one just left, directly or through
   others.

``python -m tests.walk`` prints both routes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import networkx as nx

import causal_lvlm as cl
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import Target, TokenLayout, Units
from tests.imports import MODULES, import_graph
from tests.test_layers import ROOMS

PACKAGE = "causal_lvlm"
SEAM = f"{PACKAGE}.lvlm"
LEAVES = {f"{PACKAGE}.{m}" for r in ROOMS if r.name in ("files", "language") for m in r.members}
LEAVES.remove(f"{PACKAGE}.asker")
FILES = {str(file): name for name, file in MODULES.items() if name.startswith(PACKAGE)}
DEPTH = 5  # a search holds its cases, a case its question, a question the asker, that the trace


class Stay(NamedTuple):
    """One module on the route, what was called there, and whether the step to it was a climb."""

    module: str
    calls: list[str]
    climb: bool


def holds_question(value: Any, depth: int = DEPTH) -> bool:
    """Return whether a value is part of the question, or an object of the package that holds it."""
    if isinstance(value, TokenLayout | Target | Units):
        return True
    if not depth or not type(value).__module__.startswith(PACKAGE):
        return False
    names = [n for kind in type(value).__mro__ for n in getattr(kind, "__slots__", ())]
    held = [*getattr(value, "__dict__", {}).values(), *(getattr(value, n, None) for n in names)]
    return any(holds_question(one, depth - 1) for one in held)


def first_calls(work: Callable[[], Any]) -> list[tuple[str, str, str]]:
    """Return (calling module, module, function) of first calls that are handed the question."""
    seen: set[CodeType] = set()
    found = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        module = FILES.get(code.co_filename)
        if event != "call" or module is None or code in seen or code.co_name.startswith("<"):
            return
        seen.add(code)
        owner = getattr(type(frame.f_locals.get("self")), code.co_name, None)
        if isinstance(owner, property | cached_property):
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(holds_question(frame.f_locals.get(name)) for name in names):
            found.append((_caller(frame), module, code.co_qualname))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def _caller(frame: FrameType) -> str:
    """Return the nearest module of the package below a frame; sorted() and the like lie between."""
    below = frame.f_back
    while below is not None and below.f_code.co_filename not in FILES:
        below = below.f_back
    return "" if below is None else FILES[below.f_code.co_filename]


def route(calls: Iterable[tuple[str, str, str]], imports: nx.DiGraph) -> list[Stay]:
    """Return the stays of a list of first calls; `imports` points from importer to imported."""
    stays: list[Stay] = []
    for caller, module, function in calls:
        at_seam = any((name + ".").startswith(SEAM + ".") for name in (caller, module))
        if module == caller or at_seam or module in LEAVES:
            continue
        if stays and stays[-1].module == module:
            stays[-1].calls.append(function)
            continue
        climb = bool(stays) and nx.has_path(imports, module, stays[-1].module)
        stays.append(Stay(module, [function], climb))
    return stays


def routes() -> dict[str, list[Stay]]:
    """Return the routes of one `explain` and one `report` on the embedded model."""
    model, sample = cl.load_model(), sample_inputs()[0]
    ask = lambda: model.run(sample.image_path, sample.prompt)  # noqa: E731
    trace = ask()
    explanation = cl.explain(trace, trace.answer)  # compiles, so that the traced call does not
    trace = ask()
    graph = import_graph()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        works = {
            "explain": lambda: cl.explain(trace, trace.answer),
            "report": lambda: cl.report(trace, [explanation], page),
        }
        return {name: route(first_calls(work), graph) for name, work in works.items()}


def main() -> None:
    """Print the routes."""
    for name, stays in routes().items():
        n_modules, n_climbs = len({s.module for s in stays}), sum(s.climb for s in stays)
        print(f"{name}: {len(stays)} stays in {n_modules} modules, {n_climbs} climbs (^)\n")
        for number, stay in enumerate(stays, start=1):
            mark = "^" if stay.climb else " "
            module = stay.module.removeprefix(PACKAGE + ".")
            print(f"{number:4} {mark} {module:28} {', '.join(stay.calls)}")
        print()


if __name__ == "__main__":
    main()
