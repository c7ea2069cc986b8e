"""How stable every edge and every mark is when what was chosen or measured varies a little.

1. Every run draws a setting: a level (alpha or threshold), a number of samples, a head. All
   combinations are gone through in a shuffled order, again and again, so that with a multiple of
   their number of runs each occurs equally often.
2. Every run resamples its source (`causal_lvlm.structure.resample`): the rows of an attention
   matrix are jittered, the rows of a data table drawn again, or a correlation matrix replaced by
   one that as many samples from it could have shown.
3. The graph is learned, in parallel threads, since the compiled learner releases the GIL. Each run
   has a random stream of its own and frequencies are sums of whole numbers, so the result does not
   depend on `n_jobs`.
4. The frequency of an edge is the share of runs that have it, that of a mark the share of runs that
   have it at that end of that edge.

A frequency says how much an edge depends on chance and on settings, not how probable it is: what
is wrong in every run (an assumption that does not hold) is wrong with frequency 1.

References: resampling graphs by the bootstrap, Friedman, Goldszmidt, Wyner, UAI 1999; subsamples of
half the size, Meinshausen, Bühlmann, Journal of the Royal Statistical Society B 72 (2010).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, UInt8Array, frozen
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.errors import OutputError, StructureError
from causal_lvlm.fields import (
    array,
    choice,
    many,
    maybe,
    number,
    reading,
    record,
    settings,
    table,
    text,
    whole,
)
from causal_lvlm.npz import read_beside
from causal_lvlm.storage import read_json, to_jsonable, versions, write_bytes, write_json
from causal_lvlm.structure.aggregate import majority_marks
from causal_lvlm.structure.learn import learn_structure
from causal_lvlm.structure.pag import PAG
from causal_lvlm.structure.resample import (
    KINDS,
    in_threads,
    levels_to_vary,
    sampler,
    shuffled_turns,
    stop_if_interrupted,
)

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

__all__ = ["EdgeStability", "edge_stability"]

_KIND = "edge_stability"


@dataclass(frozen=True, eq=False)
class EdgeStability:
    """How often every edge and every mark was learned.

    Attributes
    ----------
    edge_frequency : ndarray of float64, shape (N, N)
        Symmetric: share of runs with an edge between i and j.
    mark_frequency : ndarray of float64, shape (N, N, 4)
        ``[i, j, c]``: share of runs with mark c **at j** on the edge i-j (0 no edge, 1 circle,
        2 arrowhead, 3 tail). The four add up to 1; the last three to the edge's frequency. The
        diagonal has no edge in every run.
    edge_counts : ndarray of int64, shape (R,)
        Number of edges of every run.
    n_runs : int
    incomplete_runs : int
        Runs that a budget ended.
    parameters : dict
        What was resampled and how, with the seed; ``first_run`` holds the learner's own.
    versions : dict
    names : tuple of str or None
    kind : str
        ``"pag"`` or ``"cpdag"``.
    """

    edge_frequency: FloatArray
    mark_frequency: FloatArray
    edge_counts: IntArray
    n_runs: int
    incomplete_runs: int
    parameters: dict[str, Any]
    versions: dict[str, str] = field(default_factory=versions)
    names: tuple[str, ...] | None = None
    kind: str = "pag"

    def __post_init__(self) -> None:
        object.__setattr__(self, "edge_frequency", frozen(self.edge_frequency, np.float64))
        object.__setattr__(self, "mark_frequency", frozen(self.mark_frequency, np.float64))
        object.__setattr__(self, "edge_counts", frozen(self.edge_counts, np.int64))
        n = len(self.edge_frequency)
        if self.edge_frequency.shape != (n, n) or self.mark_frequency.shape != (n, n, 4):
            raise StructureError(
                f"frequencies need the shapes (N, N) and (N, N, 4), got "
                f"{self.edge_frequency.shape} and {self.mark_frequency.shape}"
            )

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.edge_frequency)

    @property
    def confidence(self) -> FloatArray:
        """The edge frequencies, under the name that drawings and exports use."""
        return self.edge_frequency

    def consensus(self, threshold: float = 0.5) -> PAG:
        """Return the graph of the edges that at least this share of the runs have.

        A mark is the arrowhead or tail that more than half of the runs with the edge have at that
        end, otherwise a circle; in a CPDAG an edge is directed if more than half of the runs with
        the edge direct it that way, otherwise undirected. No run need have learned this graph, and
        it need not be a valid PAG (`check_validity`).

        Parameters
        ----------
        threshold : float, default 0.5
            In (0, 1].

        Raises
        ------
        StructureError
            If the threshold is not in (0, 1].
        """
        if not 0.0 < threshold <= 1.0:
            raise StructureError(f"threshold must be in (0, 1], not {threshold}")
        # Counts, not shares: 0.3 of 10 runs must not fall to rounding.
        needed = np.ceil(threshold * self.n_runs - 1e-9)
        votes = np.rint(self.mark_frequency * self.n_runs)
        marks = majority_marks(votes, self.kind)
        marks[np.rint(self.edge_frequency * self.n_runs) < needed] = 0
        return PAG(marks)

    def summary(self) -> dict[str, Any]:
        """Return the numbers without arrays: how many edges there are, and how many are stable."""
        upper = self.edge_frequency[np.triu_indices(self.n_nodes, 1)]
        return {
            "nodes": self.n_nodes,
            "graph": self.kind,
            "runs": self.n_runs,
            "incomplete_runs": self.incomplete_runs,
            "mean_edges": float(self.edge_counts.mean()),
            "least_edges": int(self.edge_counts.min()),
            "most_edges": int(self.edge_counts.max()),
            "edges_ever": int(np.count_nonzero(upper)),
            "edges_in_half": int(np.count_nonzero(upper >= 0.5)),
            "edges_in_all": int(np.count_nonzero(upper >= 1.0)),
            "parameters": self.parameters,
            "versions": self.versions,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return `summary` and one entry per edge that occurred, as plain data."""
        found = [
            {
                "source": int(i),
                "target": int(j),
                "frequency": float(self.edge_frequency[i, j]),
                "marks_source": self.mark_frequency[j, i, 1:].tolist(),
                "marks_target": self.mark_frequency[i, j, 1:].tolist(),
            }
            for i, j in np.argwhere(np.triu(self.edge_frequency) > 0)
        ]
        names = None if self.names is None else list(self.names)
        return {**self.summary(), "names": names, "edges": found}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``path`` (JSON) and, beside it, the arrays (same name, ``.npz``).

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        target = Path(path)
        if target.suffix == ".npz":
            raise OutputError(f"{str(target)!r} is where the arrays go; give a name in .json")
        arrays = target.with_suffix(".npz")
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            edge_frequency=self.edge_frequency,
            mark_frequency=self.mark_frequency,
            edge_counts=self.edge_counts,
        )
        write_bytes(arrays, stream.getvalue())
        names = None if self.names is None else list(self.names)
        return write_json(
            target, {"kind": _KIND, "arrays": arrays.name, "names": names, **self.summary()}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EdgeStability:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If a file is missing, unreadable or holds something else.
        """
        value = read_json(path, _KIND)
        with reading(path, "stability"):
            n = record({"nodes": whole(1)})(value, "")["nodes"]
            most = 1.0 + 1e-9
            arrays = record(
                {
                    "edge_frequency": array(np.float64, n, n, low=0.0, high=most),
                    "mark_frequency": array(np.float64, n, n, 4, low=0.0, high=most),
                    "edge_counts": array(np.int64, None, low=0),
                }
            )(read_beside(path, value), "")
            return cls(**arrays, **saved_runs(value, n))


def saved_runs(value: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Return the checked fields of a saved stability of n nodes, except for its arrays.

    Raises
    ------
    OutputError
        If one is missing, or is not what it must be.
    """
    fields = record(
        {
            "runs": whole(1),
            "incomplete_runs": whole(0),
            "parameters": settings(
                kind=choice(*KINDS, "target"), seed=whole(None, None), jitter=maybe(number(0.0)),
            ),
            "versions": table(text),
            "names": maybe(many(text, length=n)),
            "graph": choice("pag", "cpdag"),
        }
    )(value, "")  # fmt: skip
    return {"n_runs": fields.pop("runs"), "kind": fields.pop("graph"), **fields}


def edge_stability(
    source: Any,
    *,
    kind: str = "attention",
    runs: int = 100,
    seed: int = 0,
    alphas: float | Sequence[float] | None = None,
    thresholds: float | Sequence[float] | None = None,
    n_samples: int | Sequence[int] | None = None,
    jitter: float | None = None,
    heads: str | Sequence[int] = "all",
    nodes: npt.ArrayLike | None = None,
    sink: str = "keep",
    resample: str = "bootstrap",
    names: Sequence[str] | None = None,
    n_jobs: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
    **learn_options: Any,
) -> EdgeStability:
    """Learn the graph many times from resampled input and say how often each edge and mark came.

    Parameters
    ----------
    source : array_like or object with an attribute ``correlation``
        For ``kind="attention"`` a matrix of weights whose rows are the nodes, shape (T, T), or
        one per head, (H, T, T). For ``"data"`` a table of shape (n, N), one column per node. For
        ``"correlation"`` a matrix of shape (N, N), or an object such as `TokenCorrelation`.
    kind : {"attention", "data", "correlation"}
    runs : int, default 100
    seed : int, default 0
    alphas, thresholds : float or sequence of float, optional
        Levels to vary: either of them, see `learn_structure`.
    n_samples : int or sequence of int, optional
        Sample sizes to vary. For data the number of rows drawn (default: all n, or half of them
        for ``resample="subsample"``); for a correlation the number of samples drawn.
    jitter : float, optional
        Only for attention: standard deviation of the logarithm of the factor by which each weight
        is multiplied before its row is brought back to its sum. Zeros stay zeros. Default 0.1.
    heads : "all" or sequence of int
        Only for attention of several heads: the heads that runs are drawn from.
    nodes : array_like of int, optional
        Only for attention: the rows that are nodes; all columns are kept.
    sink : {"keep", "drop"}
        Only for attention: whether the columns of attention sinks count.
    resample : {"bootstrap", "subsample"}
        Only for data: rows with replacement, or without. Repeated rows make a bootstrap sample
        look more dependent than fresh data would, so it tends to keep more edges.
    names : sequence of str, optional
    n_jobs : int or None, default 1
        Threads; None is one per processor.
    progress : callable, optional
        Called as ``progress(done, runs)`` after each run.
    **learn_options
        Passed to `learn_structure`: ``algorithm``, ``tiers``, ``knowledge``, ... A ``time_limit``
        or ``max_tests`` is for each run; runs that it ended are counted as they are, and their
        number is `EdgeStability.incomplete_runs`. Without an algorithm each run takes the default
        for this kind of source.

    Returns
    -------
    EdgeStability

    Raises
    ------
    AttentionError, DataError, CorrelationError
        If the source cannot be used; with a row or column that is to blame.
    StructureError
        If an argument does not fit the kind of source.
    """
    check_choice("kind", kind, KINDS)
    runs, seed = whole_number("runs", runs, 1), whole_number("seed", seed, 0)
    source_of_runs = sampler(
        source, kind=kind, jitter=jitter, heads=heads, nodes=nodes, sink=sink,
        resample=resample, n_samples=n_samples, names=names,
    )  # fmt: skip
    levels = levels_to_vary(alphas, thresholds, learn_options, source_of_runs.threshold)
    settings = [
        {**level, "n_samples": size, "head": head}
        for level, size, head in itertools.product(
            levels, source_of_runs.sizes, source_of_runs.heads
        )
    ]
    turns = shuffled_turns(len(settings), runs, seed)
    streams = np.random.SeedSequence(seed).spawn(runs)

    def one(run: int) -> tuple[UInt8Array, bool, str, dict[str, Any]]:
        chosen = settings[turns[run]]
        drawn = source_of_runs.sampled(
            np.random.default_rng(streams[run]), chosen["head"], chosen["n_samples"]
        )
        found = learn_structure(
            drawn,
            alpha=chosen["alpha"],
            threshold=chosen["threshold"],
            # A threshold leaves the sample size without a part in the test.
            n_samples=None if chosen["threshold"] is not None else chosen["n_samples"],
            **{"evidence": False, **learn_options},
        )
        stop_if_interrupted(found)
        return found.pag.marks, found.complete, found.kind, found.parameters

    parameters = {
        "kind": kind,
        "runs": runs,
        "seed": seed,
        "alphas": [level["alpha"] for level in levels],
        "thresholds": [level["threshold"] for level in levels],
        "n_samples": list(source_of_runs.sizes),
        "heads": list(source_of_runs.heads),
        **source_of_runs.parameters,
    }
    return _count(one, runs, n_jobs, parameters, source_of_runs.names, progress)


def _count(
    one: Callable[[int], tuple[UInt8Array, bool, str, dict[str, Any]]],
    runs: int,
    n_jobs: int | None,
    parameters: dict[str, Any],
    names: tuple[str, ...] | None,
    progress: Callable[[int, int], None] | None,
) -> EdgeStability:
    votes: IntArray = np.zeros((0, 0, 4), dtype=np.int64)
    counts: list[int] = []
    incomplete, graph, used = 0, "pag", dict[str, Any]()
    for marks, complete, kind, options in in_threads(one, runs, n_jobs):
        if not counts:
            graph, used = kind, options
            votes = np.zeros((*marks.shape, 4), dtype=np.int64)
        for code in range(4):
            votes[:, :, code] += marks == code
        counts.append(int(np.count_nonzero(marks)) // 2)
        incomplete += not complete
        if progress is not None:
            progress(len(counts), runs)
    return EdgeStability(
        edge_frequency=votes[:, :, 1:].sum(axis=2) / runs,
        mark_frequency=votes / runs,
        edge_counts=np.array(counts),
        n_runs=runs,
        incomplete_runs=incomplete,
        parameters={**parameters, "first_run": to_jsonable(used)},
        names=names,
        kind=graph,
    )
