"""The rooms keep to what they may know (CONTRIBUTING.md, table of rooms)."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "causal_lvlm"
KERNELS = ROOT / "kernels" / "causal_kernels"
NUMERIC = ("numpy", "scipy", "networkx", "PIL", "causal_kernels")
HEAVY = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")
EDGE = ("causal_lvlm.viz", "causal_lvlm.cli", "causal_lvlm.app")

# Room -> third-party packages it may import. Internal imports are checked separately.
ALLOWED = {
    "structure": NUMERIC,
    "explanation": NUMERIC,
    "metrics": NUMERIC,
    "correlation.py": NUMERIC,
    "covariance.py": NUMERIC,
    "composition.py": ("numpy",),
    "checks.py": ("numpy",),
    "tokens.py": NUMERIC,
    "units.py": (*NUMERIC, "skimage"),
    "runner.py": ("numpy",),
    "cards.py": ("numpy", "PIL"),
    "workers.py": ("numpy",),
    "errors.py": (),
    "arrays.py": ("numpy",),
    "storage.py": ("numpy", "PIL"),
    "fields.py": ("numpy",),
    "npz.py": ("numpy",),
    "rasters.py": ("PIL",),
    "results.py": ("numpy",),
    "protocols.py": ("PIL",),
    "summary.py": ("numpy",),
    "lvlm": (*NUMERIC, *HEAVY, "threadpoolctl"),
    "attribution": (*NUMERIC, "torch"),
    "tiny": (*NUMERIC, *HEAVY, "matplotlib", "tqdm", "threadpoolctl"),
    "viz": (*NUMERIC, "matplotlib", "pygraphviz"),
    "cli": ("numpy", "typer", "tqdm"),
    "app": ("numpy", "PIL", "matplotlib", "gradio", "starlette"),
    "__main__.py": (),
    "__init__.py": (),
}
# Room -> rooms of this package it must not import, not even inside a function.
FORBIDDEN = {
    "structure": ("lvlm", "attribution", "tiny", "explanation", "viz", "cli"),
    "explanation": ("lvlm", "tiny", "viz", "cli"),
    "correlation.py": ("lvlm", "attribution", "tiny", "explanation", "viz", "cli"),
    "covariance.py": ("lvlm", "attribution", "tiny", "explanation", "viz", "cli"),
    "composition.py": ("lvlm", "attribution", "structure", "tiny", "explanation", "viz", "cli"),
    "metrics": ("lvlm", "tiny", "viz", "cli"),
    "units.py": ("lvlm", "attribution", "structure", "explanation", "tiny", "viz", "cli"),
    "runner.py": ("lvlm", "attribution", "structure", "explanation", "tiny", "viz", "cli"),
    "cards.py": ("lvlm", "attribution", "structure", "explanation", "tiny", "viz", "cli"),
    "workers.py": ("lvlm", "attribution", "structure", "explanation", "tiny", "viz", "cli"),
    "tokens.py": ("lvlm", "attribution", "structure", "explanation", "tiny", "viz", "cli"),
    "errors.py": ("lvlm", "attribution", "structure", "explanation", "tiny", "viz", "cli"),
    "arrays.py": ("lvlm", "attribution", "structure", "explanation", "tiny", "viz", "cli"),
    "storage.py": ("lvlm", "attribution", "structure", "explanation", "tiny", "viz", "cli"),
    "lvlm": ("structure", "explanation", "viz", "cli"),
    "attribution": ("structure", "explanation", "metrics", "viz", "cli"),
    "tiny": ("structure", "explanation", "viz", "cli"),
    "viz": ("cli", "app"),
    "app": ("cli",),
}
# Methods that turn the results of other rooms into an attribution.
BRIDGES = {"causal.py": ("explanation",), "consensus.py": ("metrics",)}


def imports_of(source: str, package: str = "causal_lvlm") -> set[str]:
    """Return every module a source imports, functions included, type-checking blocks left out."""
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for part in node.body
        for inner in ast.walk(part)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = f"{package}.{base}".rstrip(".")
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


def test_walker_sees_imports_in_functions_and_skips_type_checking():
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from causal_lvlm.viz import report\n    import numba.core\n"
    )
    found = imports_of(source)
    assert "torch" not in found
    assert {"causal_lvlm.viz", "causal_lvlm.viz.report", "numba.core"} <= found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_rooms_keep_to_their_table(file):
    room = room_of(file)
    found = imports_of(file.read_text(encoding="utf-8"))
    assert room in ALLOWED, f"{room} is missing in the table of this test"
    foreign = tops(found) - set(sys.stdlib_module_names) - {"causal_lvlm", "__future__"}
    assert foreign <= set(ALLOWED[room]), foreign - set(ALLOWED[room])
    bridged = BRIDGES.get(file.name, ()) if room == "attribution" else ()
    for other in set(FORBIDDEN.get(room, ())) - set(bridged):
        hits = {n for n in found if (n + ".").startswith(f"causal_lvlm.{other}.")}
        assert not hits, hits


def test_only_the_command_line_imports_the_edge():
    for file in FILES:
        if room_of(file) in ("viz", "cli", "app", "__main__.py"):
            continue
        found = imports_of(file.read_text(encoding="utf-8"))
        hits = {n for n in found for edge in EDGE if (n + ".").startswith(edge + ".")}
        assert not hits, (file, hits)


def test_kernels_know_numpy_and_numba_only():
    for file in KERNELS.rglob("*.py"):
        found = tops(imports_of(file.read_text(encoding="utf-8"), "causal_kernels"))
        foreign = found - set(sys.stdlib_module_names) - {"causal_kernels"}
        assert foreign <= {"numpy", "numba"}, (file, foreign)


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
