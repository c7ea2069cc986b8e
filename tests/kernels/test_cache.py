"""Compiled kernels are never stale: the cache folder is named by all sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from causal_kernels.cache import source_hash

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def run(root, home, code, **environment):
    names = ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "XDG_CACHE_HOME")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=home,
        env={**clean, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(home), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_hash_depends_on_every_source(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("y = 1\n")
    before = source_hash(tmp_path)
    assert source_hash(tmp_path) == before
    (tmp_path / "b.py").write_text("y = 2\n")
    edited = source_hash(tmp_path)
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert len({before, edited, source_hash(tmp_path)}) == 3


@pytest.mark.slow
@pytest.mark.skipif(not JIT, reason="needs compiled kernels")
def test_an_edit_in_another_file_is_noticed(tmp_path):
    """`order_one_sequential` calls `partial_correlation` in partial.py: edit only that file."""
    root = tmp_path / "kernels"
    shutil.copytree(KERNELS, root, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np, causal_kernels as k\n"
        "m = np.ones((3, 3), np.uint8) - np.eye(3, dtype=np.uint8)\n"
        "r = np.full((3, 3), .5) + .5 * np.eye(3); best = np.zeros(1); i = np.zeros(1, np.int64)\n"
        "k.order_one_sequential(r, m, np.zeros(3, np.int64), np.array([[0, 1]]), 0.0, 1e-9, best,"
        " i, i.copy(), i.copy())\n"
        "print(best[0])"
    )
    first = run(root, tmp_path, code)
    assert float(first) == pytest.approx((1 / 3) ** 2)  # (0.5 - 0.25) / (1 - 0.25)
    file = root / "causal_kernels" / "partial.py"
    text = file.read_text()
    edited = text.replace("/ (var_x * var_y) ** 0.5", "/ (var_x * var_y) ** 0.5 / 2")
    assert edited != text
    file.write_text(edited)
    assert float(run(root, tmp_path, code)) == pytest.approx(float(first) / 4)
    assert len(list((tmp_path / "causal-kernels").iterdir())) == 2


def test_folder_is_in_the_users_cache_or_where_numba_is_told(tmp_path):
    code = (
        "import causal_kernels.cache as c, numba.core.caching as n; print(c.cache_folder(), "
        "any('causal' in cls.__module__ for cls in n.CacheImpl._locator_classes))"
    )
    assert run(KERNELS, tmp_path, code).startswith(str(tmp_path / "causal-kernels"))
    assert run(KERNELS, tmp_path, code).endswith("False")  # other packages are not affected
    chosen = run(KERNELS, tmp_path, code, NUMBA_CACHE_DIR=str(tmp_path / "mine"))
    assert chosen.startswith(str(tmp_path / "mine" / "causal-kernels"))


@pytest.mark.skipif(not JIT, reason="needs compiled kernels")
def test_installed_in_two_places_compiled_once(tmp_path):
    """Neither the path nor the dates of the files are in the key."""
    code = (
        "import numpy as np; from causal_kernels.graph import neighbour_lists as f;"
        "from causal_kernels.compiled import pending; print(len(pending([f])));"
        "f(np.ones((3, 3), np.uint8)); print(sum(f.stats.cache_hits.values()))"
    )
    found = []
    for name in ("one", "two"):
        root = tmp_path / name
        shutil.copytree(KERNELS, root, ignore=shutil.ignore_patterns("__pycache__"))
        os.utime(root / "causal_kernels" / "graph.py", (0, 0) if name == "two" else None)
        found.append(run(root, tmp_path, code).split())
    assert found == [["1", "0"], ["0", "1"]]


@pytest.mark.skipif(not JIT, reason="needs compiled kernels")
def test_nowhere_to_write(tmp_path):
    """Without a place for machine code kernels compile, and say that they will."""
    root = tmp_path / "kernels"
    shutil.copytree(KERNELS, root, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "file").write_text("")
    code = (
        "import numba.core.caching as n; n.CacheImpl._locator_classes = [];"
        "import numpy as np; from causal_kernels.graph import neighbour_lists as f;"
        "from causal_kernels.compiled import pending; print(len(pending([f])));"
        "print(f(np.ones((3, 3), np.uint8))[0])"
    )
    found = run(root, tmp_path, code, XDG_CACHE_HOME=str(tmp_path / "file" / "none"))
    assert found.splitlines() == ["1", "[0 3 6 9]"]


def test_folders_not_used_for_a_month_go(tmp_path):
    old, new = (tmp_path / "causal-kernels" / name for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    run(KERNELS, tmp_path, "import causal_kernels")
    assert not old.exists() and new.exists()
