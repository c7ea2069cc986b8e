"""What ``causal-lvlm learn`` does beyond one graph: ``--stability``, ``--null`` and pictures.

The graph is learned again and again, with the same settings, from what the file holds: from rows
drawn again or jittered weights (`causal_lvlm.structure.stability`), and from permuted values or
weights (`causal_lvlm.structure.null`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.cli.tables import Loaded
from causal_lvlm.errors import DataError, quoted

if TYPE_CHECKING:
    from causal_lvlm.arrays import FloatArray
    from causal_lvlm.structure.null_result import NullEdges
    from causal_lvlm.structure.pag import PAG
    from causal_lvlm.structure.result import LearnedStructure
    from causal_lvlm.structure.sources import CorrelationSource
    from causal_lvlm.structure.stability_result import EdgeStability

__all__ = ["Again", "Trust", "check_pictures", "draw_pictures", "learn_again", "prepared"]

PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Again:
    """What is learned from again and again.

    Parameters
    ----------
    values : object
        A table without the rows and columns that ``--drop`` left out, the weights of one head, or
        a `CorrelationSource`.
    kind : {"data", "attention", "correlation"}
    options : dict
        What `edge_stability` and `null_edges` need to know of it.
    runs, permutations : int or None
        Of ``--stability`` and ``--null``.
    seed : int
    """

    values: Any
    kind: str
    options: dict[str, Any]
    runs: int | None
    permutations: int | None
    seed: int


@dataclass(frozen=True)
class Trust:
    """How far a graph can be trusted: what was asked for of it."""

    stability: EdgeStability | None = None
    null: NullEdges | None = None
    interrupted: bool = False

    @property
    def confidence(self) -> FloatArray | None:
        """Share of runs with each edge, shape (N, N); None without ``--stability``."""
        return None if self.stability is None else self.stability.edge_frequency


def prepared(
    loaded: Loaded, source: CorrelationSource, *, runs: int | None, permutations: int | None,
    seed: int, head: int | None, sink: str, threshold: float | None,
) -> Again | None:  # fmt: skip
    """Return what to learn from again; None if nothing of it was asked for.

    Raises
    ------
    ValueError
        If a number is not positive, or the input cannot be resampled or permuted.
    """
    for option, count in (("--stability", runs), ("--null", permutations)):
        if count is not None and count < 1:
            raise ValueError(f"{option} takes a number of graphs, 1 or more, not {count}")
    if seed < 0:
        raise ValueError(f"--seed must be 0 or more, not {seed}")
    if runs is None and permutations is None:
        return None
    if source.kind == "data":
        return Again(
            _used_table(loaded, source), "data", {"names": source.names}, runs, permutations, seed
        )
    if source.kind == "attention":
        if sink == "condition":
            raise ValueError("--stability and --null go with --sink keep or drop, not condition")
        weights = np.asarray(loaded.values, dtype=np.float64)
        if weights.ndim == 3:
            weights = weights[0 if head is None else head]
        labels = loaded.names or tuple(str(k) for k in range(len(weights)))
        names = source.names or labels
        options = {"names": names, "sink": sink, "nodes": [labels.index(name) for name in names]}
        return Again(weights, "attention", options, runs, permutations, seed)
    if permutations is not None:
        raise ValueError(
            f"--null permutes samples or attention weights, which a {source.kind} matrix does not "
            "hold; give the data table or the attention instead"
        )
    if threshold is not None:
        raise ValueError(
            f"--stability of a {source.kind} matrix needs --n-samples instead of --threshold: the "
            "sample size says how much it varies"
        )
    return Again(source, "correlation", {}, runs, None, seed)


def _used_table(loaded: Loaded, source: CorrelationSource) -> Any:
    """Return the rows and columns that the correlation was computed from."""
    from causal_lvlm.structure.tables import read_table

    table = read_table(loaded.values, loaded.names)
    values = table.values[np.isfinite(table.values).all(axis=1)]
    if source.names is None:
        return values
    labels = table.names or tuple(str(k) for k in range(values.shape[1]))
    lost = [name for name in source.names if name not in labels]
    if lost:
        raise DataError(f"there is no column {lost[0]!r} any more")
    return values[:, [labels.index(name) for name in source.names]]


def learn_again(again: Again, options: dict[str, Any], jobs: int, shown: bool) -> Trust:
    """Learn from resampled and from permuted input; Ctrl-C ends it, keeping what is complete.

    Parameters
    ----------
    again : Again
    options : dict
        Of `learn_structure`.
    jobs : int
        Threads, each learning whole graphs.
    shown : bool
        Whether progress goes to stderr.
    """
    from causal_lvlm.structure.null import null_edges
    from causal_lvlm.structure.stability import edge_stability

    common = {**again.options, **options, "kind": again.kind, "seed": again.seed, "n_jobs": jobs}
    stability: EdgeStability | None = None
    null: NullEdges | None = None
    try:
        if again.runs is not None:
            with _bar(shown, "resampling", again.runs) as progress:
                stability = edge_stability(
                    again.values, runs=again.runs, progress=progress, **common
                )
        if again.permutations is not None:
            if again.kind == "attention":
                # Weights of an encoder look ahead; then every key is one a row could have had.
                common["allowed"] = "all" if np.triu(again.values, 1).any() else "causal"
            with _bar(shown, "permuting", again.permutations) as progress:
                null = null_edges(
                    again.values, permutations=again.permutations, progress=progress, **common
                )
    except KeyboardInterrupt:
        return Trust(stability, null, interrupted=True)
    return Trust(stability, null)


@contextmanager
def _bar(wanted: bool, text: str, total: int) -> Iterator[Callable[[int, int], None] | None]:
    if not wanted:
        yield None
        return
    from tqdm import tqdm

    bar = tqdm(total=total, desc=text, file=sys.stderr, leave=False, unit="graph")

    def show(done: int, _: int) -> None:
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        bar.close()


def check_pictures(picture: Path | None, difference: Path | None, compare: Path | None) -> None:
    """Refuse what cannot be drawn before anything is learned.

    Raises
    ------
    ValueError
        If a name ends in no format, its folder does not exist, or there is nothing to compare.
    """
    if difference is not None and compare is None:
        raise ValueError("--difference draws what differs from the graph of --compare: give both")
    for option, path in (("--picture", picture), ("--difference", difference)):
        if path is None:
            continue
        if path.suffix.lower() not in PICTURES:
            raise ValueError(
                f"{option} cannot tell the format of {quoted(path.name)}; end the name in "
                f"{', '.join(PICTURES)}"
            )
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{option}: there is no folder {quoted(str(path.parent))}")


def draw_pictures(
    structure: LearnedStructure, names: Sequence[str], trust: Trust, truth: PAG | None,
    picture: Path | None, difference: Path | None, called: str,
) -> list[Path]:  # fmt: skip
    """Draw the graph, and what differs from another one; return the paths.

    Raises
    ------
    OutputError
        If a picture cannot be written.
    """
    written = []
    if picture is not None:
        from causal_lvlm.viz.structure_graph import draw_structure

        draw_structure(
            structure, names=names, confidence=trust.stability, path=picture,
            title=f"{structure.kind.upper()} learned from {called}",
        )  # fmt: skip
        written.append(picture)
    if difference is not None and truth is not None:
        from causal_lvlm.viz.difference import draw_difference

        draw_difference(
            structure, truth, names=names, path=difference,
            title=f"Learned from {called}, beside the graph it is compared with",
        )  # fmt: skip
        written.append(difference)
    return written
