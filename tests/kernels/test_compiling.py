"""Kernels are compiled before time is taken: only what a call needs, with a count, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from causal_lvlm.structure import learn_structure, pds_tree
from causal_lvlm.structure.compiling import compile_kernels

ROOT = Path(__file__).resolve().parents[2]
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
PATHS = [
    (algorithm, variant, bias)
    for algorithm in ("ordered_icd", "icd", "fci", "pc")
    for variant in ("stable", "sequential")
    for bias in ((False, True) if algorithm in ("icd", "fci") else (False,))
]


@contextmanager
def compiled():
    """Yield a list to which the name of every function is added that numba compiles."""
    from numba.core import event

    names = []

    class Note(event.Listener):
        def on_start(self, happens):
            names.append(happens.data["dispatcher"].py_func.__name__)

        def on_end(self, happens):
            pass

    with event.install_listener("numba:compile", Note()):
        yield names


@pytest.mark.skipif(not JIT, reason="needs compiled kernels")
@pytest.mark.parametrize(("algorithm", "variant", "bias"), PATHS)
def test_learning_compiles_nothing_more(algorithm, variant, bias):
    from causal_kernels.compiled import pending

    from causal_lvlm.structure.compiling import _called

    compile_kernels(algorithm, variant, bias, tree=True)
    assert compile_kernels(algorithm, variant, bias, tree=True) == 0.0
    assert pending(_called(algorithm, variant, bias, True)) == []
    rng = np.random.default_rng(0)
    with compiled() as names:
        for n in (1, 2, 9):
            correlation = np.atleast_2d(np.corrcoef(rng.normal(size=(n + 4, n)), rowvar=False))
            found = learn_structure(
                correlation, threshold=0.2, algorithm=algorithm, variant=variant,
                selection_bias=bias,
            )  # fmt: skip
            if algorithm != "pc":
                pds_tree(found, 0)
    assert names == []


def test_unknown_is_left_to_learning():
    assert compile_kernels("gies") == compile_kernels(variant="quick") == 0.0


FIRST = """
import json, time
from causal_lvlm.structure.compiling import compile_kernels
calls = []
seconds = compile_kernels(tree=True, progress=lambda *call: calls.append(call))
from causal_kernels.cache import cache_folder
names = sorted(file.name.partition("-")[0] for file in cache_folder().glob("*.nbi"))
print(json.dumps([calls, seconds, names]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="needs compiled kernels")
def test_first_explanation_compiles_ordered_icd_only(tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path)}

    def first():
        done = subprocess.run(
            [sys.executable, "-c", FIRST], capture_output=True, text=True, check=False,
            env=environment, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    calls, seconds, names = first()
    of = calls[0][1]
    assert calls == [[done, of] for done in range(of + 1)]  # every kernel is counted, none twice
    assert len(names) == of and seconds > 0
    modules = {name.partition(".")[0] for name in names}
    assert not modules & {"adjacent", "cycles", "meek", "selection", "sequential"}
    assert first()[0] == []  # on disk: nothing to be told
