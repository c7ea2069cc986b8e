"""The first call after installing: time to compile, to load from the cache; safe after an edit?

    python -m experiments.benchmarks.compile_time

1. In new processes with an empty cache folder: import, then the first small `learn_structure` of
   each algorithm (what a user waits for), then `warm_up` for the rest.
2. The same in new processes that find the compiled code on disk.
3. A copy of the kernels gets two small functions, of which one calls the other across modules.
   The helper is edited, then the caller is replaced by a file of the same size and date; after
   each a new process asks again. A stale cache answers as before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import causal_kernels

from experiments.benchmarks.common import ONE_THREAD, Results

FIRST_CALL = """
import json, time
began = time.perf_counter()
import numpy
from causal_lvlm.structure import learn_structure
imported = time.perf_counter()
data = numpy.random.default_rng(0).normal(size=(200, 6))
data[:, 2:] += data[:, :4]
correlation = numpy.corrcoef(data, rowvar=False)
learn_structure(correlation, n_samples=200, alpha=0.01, algorithm=ALGORITHM)
first = time.perf_counter()
learn_structure(correlation, n_samples=200, alpha=0.01, algorithm=ALGORITHM)
second = time.perf_counter()
import causal_kernels
causal_kernels.warm_up()
warm = time.perf_counter()
print(json.dumps({"import": imported - began, "first_call": first - imported,
                  "second_call": second - first, "warm_up_after": warm - second}))
"""

# Two small kernels put into the copy: one calls the other across modules, as real ones do.
HELPER = """

@kernel
def probe_helper(x):
    return x + 1
"""
CALLER = """
from causal_kernels.graph import probe_helper


@kernel
def probe(x):
    return 10 + probe_helper(x)
"""
ASK = "import json; from causal_kernels.pds import probe; print(json.dumps(probe(0)))"


def run(code: str, environment: dict[str, str]) -> Any:
    """Run code in a new process; return the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **ONE_THREAD, **environment},
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print times and whether an edit was noticed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--algorithms", nargs="*", default=["ordered_icd", "icd", "fci", "pc"])
    parser.add_argument("--out", type=Path, help="results file (JSON lines)")
    options = parser.parse_args()
    results = Results("compile_time", vars(options), options.out)
    print(
        f"{'algorithm':<14}{'cache':<8}{'import':>8}{'first call':>12}{'second':>9}{'all else':>10}"
    )
    for algorithm in options.algorithms:
        with tempfile.TemporaryDirectory() as folder:
            code = FIRST_CALL.replace("ALGORITHM", repr(algorithm))
            for state in ("empty", "full"):
                times = run(code, {"NUMBA_CACHE_DIR": folder})
                size = sum(file.stat().st_size for file in Path(folder).rglob("*"))
                results.add(algorithm=algorithm, cache=state, cache_bytes=size, seconds=times)
                print(
                    f"{algorithm:<14}{state:<8}{times['import']:>7.2f}s{times['first_call']:>11.2f}s"
                    f"{times['second_call'] * 1e3:>7.2f}ms{times['warm_up_after']:>9.2f}s",
                    flush=True,
                )
    for check, noticed in edits().items():
        results.add(check=check, noticed=noticed)
        print(f"{check}: {'noticed' if noticed else 'NOT NOTICED, the cache is stale'}")


def edits() -> dict[str, bool]:
    """Change a copy of the kernels in two ways; tell whether new processes notice."""
    noticed = {}
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "causal_kernels"
        shutil.copytree(
            Path(causal_kernels.__file__).parent,
            package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        helper, caller = package / "graph.py", package / "pds.py"
        helper.write_text(helper.read_text(encoding="utf-8") + HELPER, encoding="utf-8")
        caller.write_text(caller.read_text(encoding="utf-8") + CALLER, encoding="utf-8")
        environment = {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        environment["XDG_CACHE_HOME"] = folder  # leave nothing in the user's own cache
        for name in ("NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT"):
            environment[name] = ""  # as for a user who sets nothing
        answers = [run(ASK, environment), run(ASK, environment)]
        text = helper.read_text(encoding="utf-8").replace("return x + 1\n", "return x + 2\n")
        helper.write_text(text, encoding="utf-8")
        answers.append(run(ASK, environment))
        noticed["a helper in another module is edited"] = answers == [11, 11, 12]
        # an installer may write a file of the same size and date
        before = caller.stat()
        text = caller.read_text(encoding="utf-8").replace("return 10 + probe", "return 20 + probe")
        caller.write_text(text, encoding="utf-8")
        os.utime(caller, ns=(before.st_atime_ns, before.st_mtime_ns))
        noticed["a reinstalled module has the same size and date"] = run(ASK, environment) == 22
    return noticed


if __name__ == "__main__":
    main()
