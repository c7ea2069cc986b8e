"""No accidental second compilation, and a light import.

`make test-all` runs this folder with the compiler off too: no kernel needs numba to be right.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import causal_kernels as kernels
import numpy as np
import pytest
from causal_kernels import (
    adjacent,
    bookkeeping,
    cycles,
    graph,
    meek,
    orientation,
    partial,
    pds,
    selection,
    separation,
    sequential,
    single,
    subsets,
    tails,
)

from causal_lvlm.structure import BackgroundKnowledge, learn_structure, pds_tree

ROOT = Path(__file__).resolve().parents[2]
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def run(arguments, **environment):
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="needs compiled kernels")
def test_one_signature_each():
    """In a process of its own: other tests call kernels with types that learning never uses."""
    done = run(["-c", "from tests.kernels import test_jit; test_jit.check_one_signature_each()"])
    assert done.returncode == 0, done.stderr


def check_one_signature_each():
    """`warm_up` compiles what learning uses: once, and all of it."""
    kernels.warm_up()
    modules = (
        adjacent, bookkeeping, cycles, graph, meek, orientation, partial, pds, selection,
        separation, sequential, single, subsets, tails,
    )  # fmt: skip

    def signatures():
        return {
            f"{module.__name__}.{name}": list(value.signatures)
            for module in modules
            for name, value in vars(module).items()
            if hasattr(value, "signatures") and value.py_func.__module__ == module.__name__
        }

    before = signatures()
    rng = np.random.default_rng(0)
    for dtype in (np.float64, np.float32):
        correlation = np.asarray(np.corrcoef(rng.normal(size=(30, 8)), rowvar=False), dtype)
        for layout in (np.ascontiguousarray, np.asfortranarray):
            for variant in ("stable", "sequential"):
                for algorithm, bias in (
                    ("icd", False), ("icd", True), ("ordered_icd", False), ("fci", True),
                    ("pc", False),
                ):  # fmt: skip
                    structure = learn_structure(
                        layout(correlation), threshold=0.2, variant=variant,
                        algorithm=algorithm, selection_bias=bias, n_jobs=2,
                        knowledge=BackgroundKnowledge(required=[(0, 1)], forbidden=[(2, 3)]),
                    )  # fmt: skip
                    if structure.kind == "pag":
                        pds_tree(structure, 3)
    assert signatures() == before
    # called with literals, which are types of their own
    twice = {"causal_kernels.orientation._claim", "causal_kernels.partial.partial_correlation"}
    assert {name for name, found in before.items() if len(found) > 1} <= twice


def test_import_is_light():
    """Kernels know numpy and numba, structure learning knows neither torch nor transformers."""
    code = (
        "import sys, causal_kernels; "
        "assert not {'causal_lvlm', 'scipy.linalg', 'torch', 'transformers'} & set(sys.modules); "
        "import causal_lvlm.structure as s; s.learn_structure([[1, .5], [.5, 1]], threshold=.1); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = run(["-c", code])
    assert done.returncode == 0, done.stderr
