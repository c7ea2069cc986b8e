"""How fast is structure learning? Times and CI tests per second, one thread, compile time apart.

    python -m experiments.benchmarks.structure_speed [heads.npz] [--algorithm icd] ...

``heads.npz`` holds correlation matrices of shape (N, N), one per name. Without it the three real
attention heads of 200 tokens in ``data/`` are used, and synthetic heads of other sizes: rows of a
random causal softmax attention with a sink, correlated as A A^T. A file ``*_n200.npz`` in the same
folder is attention of a language model with 135 million parameters.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import causal_kernels
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from causal_lvlm.arrays import FloatArray
from causal_lvlm.structure import learn_structure

DATA = Path(__file__).with_name("data") / "attention_correlations_n200.npz"


def synthetic_head(n: int, seed: int) -> FloatArray:
    """Return corr(A A^T) of a causal attention with a sink at position 0 and local structure."""
    rng = np.random.default_rng(seed)
    query, key = rng.normal(size=(2, n, 16))
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    score = query @ key.T / 4.0 - 0.02 * np.abs(distance)
    score[:, 0] += 4.0
    score[distance < 0] = -np.inf
    weights = np.exp(score - score.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    covariance = weights @ weights.T
    scale = 1.0 / np.sqrt(covariance.diagonal())
    return np.asarray(covariance * np.outer(scale, scale))


def heads(path: Path | None, sizes: list[int]) -> Iterator[tuple[str, FloatArray]]:
    """Yield (name, correlation)."""
    source = path or (DATA if DATA.exists() else None)
    if source is not None:
        with np.load(source, allow_pickle=False) as stored:
            for name in stored.files:
                yield name, stored[name]
    if path is None:
        for n in sizes:
            yield f"synthetic_n{n}", synthetic_head(n, seed=n)


def main() -> None:
    """Read the command line and print one line per head."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("heads", nargs="?", type=Path, help="npz file of correlation matrices")
    parser.add_argument("--algorithm", default="ordered_icd", choices=["ordered_icd", "icd"])
    parser.add_argument("--variant", default="stable", choices=["stable", "sequential"])
    parser.add_argument("--alpha", type=float, default=1e-5)
    parser.add_argument("--n-samples", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5, help="the best of so many runs counts")
    parser.add_argument("--sizes", type=int, nargs="*", default=[50, 100, 200, 400, 700])
    options = parser.parse_args()
    if options.heads is not None and not options.heads.exists():
        parser.error(f"there is no file {options.heads}")
    with threadpool_limits(1):
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Time every head; the kernels use one thread, the limit is for BLAS and LAPACK."""
    began = time.perf_counter()
    causal_kernels.warm_up()
    print(f"compile (or load): {time.perf_counter() - began:.1f} s")
    print(f"{platform.processor() or platform.machine()}, one thread, {options}")
    print(f"{'head':<20}{'nodes':>6}{'edges':>7}{'ms':>10}{'tests':>12}{'tests/s':>12}  per size")
    for name, correlation in heads(options.heads, options.sizes):
        best = np.inf
        for _ in range(options.repeat):
            began = time.perf_counter()
            structure = learn_structure(
                correlation,
                n_samples=options.n_samples,
                alpha=options.alpha,
                algorithm=options.algorithm,
                variant=options.variant,
            )
            best = min(best, time.perf_counter() - began)
        sizes = " ".join(str(count) for count in structure.tests_per_size)
        print(
            f"{name:<20}{structure.n_nodes:>6}{structure.pag.n_edges:>7}{best * 1e3:>10.1f}"
            f"{structure.n_tests:>12}{structure.n_tests / best:>12.2e}  {sizes}",
            flush=True,
        )


if __name__ == "__main__":
    main()
