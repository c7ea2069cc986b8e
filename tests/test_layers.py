"""The rooms keep to what they may know; CONTRIBUTING.md shows the same table.

`ROOMS` goes from the inside out. A module imports modules of its own room (without circles, see
`tests.test_gates`) and of the rooms named in its row, all of which stand above it. Imports inside
functions and below ``if TYPE_CHECKING`` count like any other.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests.imports import MODULES, ROOT, imports_of, room_of

PACKAGE = ROOT / "causal_lvlm"


class Room(NamedTuple):
    """One row: the folder, or single modules, each of which may import those before it."""

    name: str
    members: tuple[str, ...]
    knows: tuple[str, ...]  # rooms above
    packages: tuple[str, ...]  # besides the standard library
    holds: str


FILES = (
    "errors", "arrays", "checks", "fields", "rasters", "storage", "npz", "budget", "workers",
    "items_file", "runner",
)  # fmt: skip
LANGUAGE = (
    "tokens", "results", "answers", "edges", "protocols", "summary", "cards", "record", "units",
    "asker",
)  # fmt: skip
MODEL = ("numpy", "PIL", "torch", "transformers", "safetensors")
LEAVES = ("files", "language")
INNER = (*LEAVES, "core", "structure", "attribution", "explanation", "metrics", "methods")
ROOMS = (
    Room("causal_kernels", ("causal_kernels",), (), ("numpy", "numba"), "compiled loops"),
    Room("files", FILES, (), ("numpy", "PIL"), "errors, checks of what is given, files, processes"),
    Room(
        "language", LANGUAGE, ("files",), ("numpy", "PIL", "skimage"),
        "tokens, what a model may be asked and answers, recorded runs, the asker",
    ),
    Room(
        "core",
        (
            "covariance", "composition", "source_options", "target_pass", "sources", "correlation",
        ), LEAVES, ("numpy",),
        "from attention to a correlation over tokens",
    ),
    Room(
        "structure", ("structure",), ("causal_kernels", *LEAVES, "core"),
        ("numpy", "scipy", "networkx"), "from a correlation to a causal graph",
    ),
    Room(
        "tiny", ("tiny",), LEAVES, (*MODEL, "tokenizers", "matplotlib", "tqdm"),
        "the embedded model",
    ),
    Room(
        "lvlm", ("lvlm",), (*LEAVES, "tiny"), (*MODEL, "huggingface_hub"),
        "models: the only room that runs them",
    ),
    Room(
        "attribution", ("attribution",), (*LEAVES, "core"), ("numpy",),
        "relevance of each position",
    ),
    Room(
        "explanation", ("explanation",), (*LEAVES, "core", "structure"), ("numpy", "networkx"),
        "from a graph to a verified set",
    ),
    Room(
        "metrics", ("metrics",), (*LEAVES, "core", "structure", "attribution", "explanation"),
        ("numpy", "scipy", "networkx"), "how good a relevance or a set is",
    ),
    Room(
        "methods", ("methods",), INNER[:-1], ("numpy", "scipy"),
        "methods by name; what reruns them",
    ),
    Room(
        "viz", ("viz",), INNER, ("numpy", "networkx", "PIL", "matplotlib", "pygraphviz"),
        "pictures and reports; never asks a model",
    ),
    Room(
        "reporting", ("reporting",), (*INNER, "viz"), (), "what a report lacks is found out first",
    ),
    Room(
        "face", ("__init__",), (*INNER, "lvlm", "viz", "reporting"), (),
        "public names, imported on first use",
    ),
    Room(
        "app", ("app",), (*INNER, "tiny", "lvlm", "viz", "reporting", "face"),
        ("numpy", "PIL", "matplotlib", "gradio", "starlette"), "the page in a browser",
    ),
    Room(
        "cli", ("cli", "__main__"), (*INNER, "tiny", "lvlm", "viz", "reporting", "face", "app"),
        ("numpy", "typer", "tqdm"), "the command",
    ),
)  # fmt: skip
ROW = {member: room for room in ROOMS for member in room.members}


def refused(module: str) -> set[str]:
    """Return the imports of a module that its room may not have."""
    return {
        one.module
        for one in imports_of(MODULES[module].read_text(encoding="utf-8"))
        if not may_import(room_of(module), one.module)
    }


def may_import(member: str, imported: str) -> bool:
    """Return whether modules of a folder, or a single module, may import another module."""
    room = ROW[member]
    if imported not in MODULES:
        top = imported.partition(".")[0]
        return top in sys.stdlib_module_names or top in room.packages
    other = room_of(imported)
    if other in room.members:
        return room.members.index(other) <= room.members.index(member)
    return other in ROW and ROW[other].name in room.knows


def test_an_import_is_judged_by_the_rooms_of_both_modules():
    assert may_import("lvlm", "causal_lvlm.tokens") and may_import("lvlm", "torch")
    assert not may_import("tokens", "causal_lvlm.units")  # later in the same row
    assert not may_import("structure", "causal_lvlm.explanation") and may_import("units", "skimage")
    assert not may_import("explanation", "torch")


def test_imports_are_read_with_their_kind():
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\nelse:\n    import json\n"
        "def f():\n    from causal_lvlm.viz import report, style\n    import numba.core\n"
    )
    assert imports_of(source, {"causal_lvlm.viz.style"}) == [
        ("typing", "top", 1),
        ("torch", "typing", 3),
        ("json", "top", 5),
        ("causal_lvlm.viz", "lazy", 7),
        ("causal_lvlm.viz.style", "lazy", 7),
        ("numba.core", "lazy", 8),
    ]


def test_a_room_knows_only_rooms_further_inside():
    above: list[str] = []
    for room in ROOMS:
        assert set(room.knows) <= set(above), room.name
        above.append(room.name)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module):
    assert room_of(module) in ROW, f"give {module} a place in ROOMS ({__file__})"
    found = refused(module)
    assert not found, (
        f"{module} ({ROW[room_of(module)].name}) imports {sorted(found)}, which its room may not: "
        "move what is needed further inside, or hand it over as an argument (see CONTRIBUTING.md)"
    )


def test_every_room_is_there_and_every_package_is_needed():
    assert {room_of(module) for module in MODULES} == set(ROW)
    for room in ROOMS:
        sources = [
            f.read_text(encoding="utf-8") for m, f in MODULES.items() if ROW[room_of(m)] is room
        ]
        used = {one.module.partition(".")[0] for source in sources for one in imports_of(source)}
        assert set(room.packages) <= used, f"{room.name} does without {set(room.packages) - used}"


def table() -> str:
    """Return the table of rooms as CONTRIBUTING.md shows it."""
    lines = ["| room | holds | knows the rooms | packages |", "| --- | --- | --- | --- |"]
    for room in ROOMS:
        files = ", ".join(f"`{m}{'/' if m == room.name else '.py'}`" for m in room.members)
        title = files if room.name in room.members else f"{room.name}: {files}"
        cells = (title, room.holds, ", ".join(room.knows), ", ".join(room.packages))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_guide_shows_this_table():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert table() in guide, f"put this table into CONTRIBUTING.md:\n{table()}"


def _modules_after(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the names of the modules it loaded."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    path = [str(ROOT), str(ROOT / "kernels")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{script}"],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_is_lazy():
    loaded = _modules_after("import causal_lvlm")
    assert "causal_lvlm" in loaded
    assert not loaded & {"torch", "transformers", "numba", "matplotlib", "scipy"}


def test_learning_structure_needs_no_torch():
    loaded = _modules_after("import causal_lvlm; causal_lvlm.learn_structure")
    assert "causal_lvlm.structure" in loaded
    assert not loaded & {"torch", "transformers"}


def test_explaining_needs_no_torch_until_a_model_is_loaded():
    loaded = _modules_after("import causal_lvlm; causal_lvlm.explain; causal_lvlm.report")
    assert not loaded & {"torch", "transformers"}


def test_kernels_load_alone():
    loaded = _modules_after("import causal_kernels")
    assert "causal_kernels" in loaded
    assert not loaded & {"torch", "transformers", "causal_lvlm"}


def test_nothing_of_ours_is_called_kernels():
    """A package of that name would shadow the one transformers asks for by name."""
    spec = importlib.util.find_spec("kernels")
    assert spec is None or spec.origin is None or "site-packages" in spec.origin


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_ruff_refuses_heavy_imports_outside_their_rooms(tmp_path, name):
    source = f"import {name}\n\n__all__ = [{name!r}]\n"
    for place, refused in (("structure/x.py", True), ("viz/x.py", True), ("lvlm/x.py", False)):
        done = subprocess.run(
            [
                sys.executable, "-m", "ruff", "check", "--select", "TID253", "--no-cache",
                "--stdin-filename", str(PACKAGE / place), "-",
            ],
            input=source, capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        assert (done.returncode == 1) == refused, (place, done.stdout)
