"""Drawing the input of structure learning again: attention rows, data tables, correlations.

- Attention: each weight times ``exp(jitter * z)`` with z standard normal, the row then brought back
  to its sum. Zeros stay zeros, so the causal mask is kept. The correlation is that of the rows.
- Data: rows drawn with replacement (bootstrap) or without (subsample).
- Correlation R with n samples: the correlation of n draws from N(0, R). Their scatter matrix is
  Wishart with n - 1 degrees of freedom; for n > N it comes from its Bartlett factor, a triangular
  matrix of normal and chi variates (Bartlett, Proc. Royal Society of Edinburgh 53, 1933), which
  costs N² random numbers instead of n N.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.covariance import correlation_of_rows, find_sinks
from causal_lvlm.errors import DataError, SampleSizeError, StructureError
from causal_lvlm.structure.checks import check_correlation
from causal_lvlm.structure.data import correlation_from_data
from causal_lvlm.structure.tables import Table, checked_names, read_table
from causal_lvlm.structure.weights import attention_rows, checked_attention, jittered

__all__ = [
    "KINDS",
    "Sampled",
    "Sampler",
    "checked_table",
    "in_threads",
    "levels_to_vary",
    "sampler",
    "shuffled_turns",
    "stop_if_interrupted",
    "wishart_correlation",
]

KINDS = ("attention", "data", "correlation")
_REDRAWS = 100  # of a bootstrap sample in which a column happens to be constant

Result = TypeVar("Result")
Draw = Callable[[np.random.Generator, Any, Any], FloatArray]


@dataclass(frozen=True)
class Sampled:
    """A drawn correlation with tiers, names and kind of its source, for `learn_structure`.

    Names are what background knowledge may refer to; the kind says which algorithm is the default.
    """

    correlation: FloatArray
    tiers: Any = None
    names: tuple[str, ...] | None = None
    kind: str = "correlation"


@dataclass(frozen=True)
class Sampler:
    """``draw(rng, head, n_samples)`` gives a correlation; the rest is what can be varied."""

    draw: Draw
    n_nodes: int
    sizes: tuple[int | None, ...]
    heads: tuple[int | None, ...]
    parameters: dict[str, Any]
    tiers: Any = None
    names: tuple[str, ...] | None = None
    threshold: float | None = None
    kind: str = "correlation"

    def sampled(self, rng: np.random.Generator, head: Any, n_samples: Any) -> Sampled:
        """Draw a correlation and describe it as its source is described."""
        drawn = self.draw(rng, head, n_samples)
        return Sampled(drawn, self.tiers, self.names, self.kind)


def sampler(
    source: Any,
    *,
    kind: str,
    jitter: float | None,
    heads: Any,
    nodes: Any,
    sink: str,
    resample: str,
    n_samples: int | Sequence[int] | None,
    names: Sequence[str] | None,
) -> Sampler:
    """Return what draws correlation matrices from a source; see `edge_stability`."""
    given = {"jitter": jitter is not None, "heads": heads != "all", "nodes": nodes is not None,
             "sink": sink != "keep"}  # fmt: skip
    if kind != "attention" and any(given.values()):
        wrong = next(name for name, is_given in given.items() if is_given)
        raise StructureError(f"{wrong} has no effect on kind={kind!r}; it is for attention weights")
    if kind != "data" and resample != "bootstrap":
        raise StructureError(f"resample has no effect on kind={kind!r}; it is for data tables")
    sizes = _sizes(n_samples)
    found: Sampler
    if kind == "attention":
        found = _attention(source, 0.1 if jitter is None else jitter, heads, nodes, sink, sizes)
    elif kind == "data":
        found = _data(source, resample, sizes, names)
    else:
        found = _correlation(source, sizes)
    if names is None or kind == "data":
        return found
    return replace(found, names=checked_names(names, found.n_nodes))


def _sizes(n_samples: int | Sequence[int] | None) -> tuple[int | None, ...]:
    if n_samples is None:
        return (None,)
    listed = np.atleast_1d(np.asarray(n_samples)).tolist()
    if not listed:
        raise StructureError("n_samples is an empty list; give at least one sample size")
    return tuple(whole_number("n_samples", size, 4) for size in listed)


def _attention(
    source: Any, jitter: float, heads: Any, nodes: Any, sink: str, sizes: tuple[int | None, ...]
) -> Sampler:
    check_choice("sink", sink, ("keep", "drop"))
    if not (np.isfinite(jitter) and jitter >= 0.0):
        raise StructureError(f"jitter must be 0 or more, not {jitter}")
    weights, chosen = checked_attention(source, heads)
    of_head = {}
    for head in chosen:
        matrix = weights[0 if head is None else head]
        sinks = find_sinks(matrix) if sink == "drop" and matrix.shape[0] == matrix.shape[1] else ()
        of_head[head] = attention_rows(matrix, nodes, sinks, head)

    def draw(rng: np.random.Generator, head: Any, _: Any) -> FloatArray:
        rows, kept = of_head[head]
        taken = kept[rows]
        return correlation_of_rows(jittered(taken, jitter, rng) if jitter else taken)

    listed = None if nodes is None else np.asarray(nodes).tolist()
    n_nodes = len(of_head[chosen[0]][0])
    parameters = {"jitter": jitter, "nodes": listed, "sink": sink}
    return Sampler(draw, n_nodes, sizes, chosen, parameters, kind="attention")


def checked_table(source: Any, names: Sequence[str] | None = None) -> Table:
    """Return a table of shape (n, N) that a correlation can be computed from.

    Raises
    ------
    DataError, SampleSizeError
        See `causal_lvlm.structure.correlation_from_data`.
    """
    table = read_table(source, names)
    correlation_from_data(table.values, names=table.names)
    return table


def _data(
    source: Any, resample: str, sizes: tuple[int | None, ...], names: Sequence[str] | None
) -> Sampler:
    check_choice("resample", resample, ("bootstrap", "subsample"))
    table = checked_table(source, names)
    n, again = len(table.values), resample == "bootstrap"
    drawn_sizes = tuple((n if again else n // 2) if size is None else size for size in sizes)
    if min(drawn_sizes) < 4 or (not again and max(drawn_sizes) > n):
        raise SampleSizeError(
            f"n_samples are {drawn_sizes}: at least 4 rows must be drawn, and a subsample cannot "
            f"have more than the {n} rows of the table"
        )

    def draw(rng: np.random.Generator, _: Any, size: Any) -> FloatArray:
        # A column that varies little may be constant in a sample: then another one is drawn.
        for attempt in range(_REDRAWS):
            taken = table.values[rng.choice(n, size=size, replace=again)]
            try:
                return correlation_from_data(taken, names=table.names).correlation
            except DataError as error:
                if attempt == _REDRAWS - 1:
                    raise DataError(
                        f"{_REDRAWS} samples of {size} rows in turn could not be used, the last "
                        f"because of {error}; draw more rows or leave such columns out"
                    ) from error
        raise DataError(f"{_REDRAWS} must be positive")  # not reached

    return Sampler(
        draw, table.values.shape[1], drawn_sizes, (None,), {"resample": resample},
        names=table.names, kind="data",
    )  # fmt: skip


def wishart_correlation(root: FloatArray, n_samples: int, rng: np.random.Generator) -> FloatArray:
    """Return the correlation of `n_samples` draws from a normal distribution.

    Parameters
    ----------
    root : ndarray, shape (N, N)
        Any matrix L with L Lᵀ the population's correlation.
    n_samples : int
    rng : numpy.random.Generator
    """
    n, free = len(root), n_samples - 1
    if free < n:
        return correlation_of_rows(root @ rng.standard_normal((n, free)))
    factor = np.tril(rng.standard_normal((n, n)), -1)
    factor[np.diag_indices(n)] = np.sqrt(rng.chisquare(free - np.arange(n)))
    return correlation_of_rows(root @ factor)


def _correlation(source: Any, sizes: tuple[int | None, ...]) -> Sampler:
    matrix, _ = check_correlation(getattr(source, "correlation", source))
    if sizes == (None,):
        size = getattr(source, "n_samples", None)
        if size is None:
            raise StructureError(
                "a correlation alone does not say how much it varies: give n_samples, or the "
                "attention weights with kind='attention', or the table with kind='data'"
            )
        sizes = _sizes(size)
    values, vectors = np.linalg.eigh(matrix)
    # Eigenvalues a little below zero are rounding (see check_correlation).
    root = vectors * np.sqrt(np.maximum(values, 0.0))

    def draw(rng: np.random.Generator, _: Any, size: Any) -> FloatArray:
        return wishart_correlation(root, size, rng)

    names = getattr(source, "names", None)
    tiers, level = getattr(source, "tiers", None), getattr(source, "threshold", None)
    return Sampler(
        draw, len(matrix), sizes, (None,), {}, tiers=tiers, names=names, threshold=level,
        kind=str(getattr(source, "kind", "correlation")),
    )  # fmt: skip


def shuffled_turns(count: int, runs: int, seed: int) -> IntArray:
    """Return for every run which of `count` settings it has: each pass shuffles all of them."""
    rng = np.random.default_rng([seed, 1])
    passes = [rng.permutation(count) for _ in range(-(-runs // count))]
    return np.concatenate(passes)[:runs].astype(np.int64)


def levels_to_vary(
    alphas: Any, thresholds: Any, options: dict[str, Any], default: float | None = None
) -> list[dict[str, float | None]]:
    """Return the levels to vary; takes ``alpha`` and ``threshold`` out of the options.

    Raises
    ------
    StructureError
        If both kinds of level are given, or an empty list.
    """
    for name, many in (("alpha", alphas), ("threshold", thresholds)):
        if name in options and many is not None:
            raise StructureError(f"give either {name} or {name}s, not both")
    alphas = options.pop("alpha", None) if alphas is None else alphas
    thresholds = options.pop("threshold", None) if thresholds is None else thresholds
    if alphas is not None and thresholds is not None:
        raise StructureError("give either thresholds or alphas (with n_samples), not both")
    if alphas is None and thresholds is None:
        thresholds = default
    name, values = ("alpha", alphas) if thresholds is None else ("threshold", thresholds)
    listed = [None] if values is None else np.atleast_1d(values).astype(float).tolist()
    if not listed:
        raise StructureError(f"{name}s is an empty list; give at least one")
    return [{"alpha": None, "threshold": None, name: value} for value in listed]


def stop_if_interrupted(found: Any) -> None:
    """Raise KeyboardInterrupt where Ctrl-C ended one of many runs: the others are not wanted."""
    if found.stopped == "interrupted":
        raise KeyboardInterrupt


def in_threads(work: Callable[[int], Result], count: int, n_jobs: int | None) -> Iterator[Result]:
    """Yield ``work(0)``, ``work(1)``, ... in this order, computed by up to `n_jobs` threads."""
    workers = os.cpu_count() or 1 if n_jobs is None else whole_number("n_jobs", n_jobs, 1)
    if min(workers, count) <= 1:
        yield from map(work, range(count))
        return
    with ThreadPoolExecutor(max_workers=min(workers, count)) as pool:
        yield from pool.map(work, range(count))
