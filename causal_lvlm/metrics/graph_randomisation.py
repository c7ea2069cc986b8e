"""Model-parameter randomisation of learned graphs.

`graph_mprt` asks what `causal_lvlm.metrics.randomisation.mprt` asks of maps: the PAG of every head
of the trained model against the PAG of the same head of one whose upper layers are random, over the
nodes that both have.

1. Jaccard index of the edges (adjacencies) and structural Hamming distance / number of pairs.
2. The value is the mean of 1 - Jaccard over heads and depths.
3. Beside it ``chance_jaccard``: the Jaccard index that two random graphs with as many edges would
   have, from the expected overlap m_a m_b / (number of pairs). Graphs that agree more than that
   across random weights owe it to what both share: mask and positions. A *flat* curve near 0
   (same graph whatever the weights) means that the graph reflects mask and position only, unless
   the graphs are so dense that any two would agree. The detail's ``reading`` says which it is, from
   the deepest randomisation: a layer below the random ones cannot change, so that a curve of
   ``layer=0`` is zero up to the last depth.

Arrowheads are not compared by themselves: with an order of the tokens most of them follow from the
order, which random weights do not change. They enter the structural Hamming distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from causal_lvlm.checks import whole_number
from causal_lvlm.correlation import TokenCorrelation, attention_correlations
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.randomisation import chosen_depths, mean_known, or_none
from causal_lvlm.protocols import TraceLike
from causal_lvlm.structure import PAG, compare_graphs

__all__ = ["METRICS", "edge_jaccard", "graph_mprt"]

MAX_TESTS = 2_000_000  # CI tests for each graph, as in `explain`
FLAT = 0.1  # a curve that stays below this share of changed edges does not see the weights


def graph_mprt(
    case: Case,
    *,
    depths: Sequence[int] | None = None,
    head: bool = True,
    algorithm: str = "ordered_icd",
    alpha: float | None = None,
    max_conditioning_size: int | None = None,
    max_tests: int | None = MAX_TESTS,
    n_jobs: int | None = None,
    seed: int | None = None,
    **correlation_options: Any,
) -> Measured:
    """Return how much learned graphs change when the model's upper layers are made random.

    Parameters
    ----------
    case : Case
        Its trace must have a model. Units and masking do not matter here.
    depths, head, seed
        See `mprt`.
    algorithm, alpha, max_conditioning_size, max_tests, n_jobs
        See `causal_lvlm.learn_structure` and `causal_lvlm.explain`.
    **correlation_options
        ``layer``, ``heads``, ``source``, ``sink``, ``row``, ``tiers``, ``pool``, ``threshold``,
        ``n_samples``, ... see `causal_lvlm.correlation.attention_correlation`.

    Returns
    -------
    Measured
        Higher is better. None if no pair of graphs has an edge. The detail holds, per depth,
        ``jaccard``, ``chance_jaccard``, ``shd_share`` (means over heads), ``heads`` (how many were
        compared), ``edges`` and ``edges_random`` (mean numbers) and ``complete`` (share of heads
        whose two graphs were learned to the end: neither `max_tests` nor
        `max_conditioning_size` cut them short); and a
        ``reading``.

    Raises
    ------
    ValueError
        If a depth is not in 1..number of layers, or an option is not allowed.
    """
    seed = case.seed if seed is None else whole_number("seed", seed, 0)
    chosen = chosen_depths(case, depths)

    def graphs(trace: TraceLike) -> list[HeadGraph | None]:
        """Return one graph per head, None where the target's row is degenerate."""
        found = attention_correlations(trace, case.target, **correlation_options)
        learned = iter(learn_graphs(
            found, trace.layout, case.target.text, max_radius=1, alpha=alpha,
            algorithm=algorithm, variant="stable", max_conditioning_size=max_conditioning_size,
            max_tests=max_tests, n_jobs=n_jobs,
        ))  # fmt: skip
        return [next(learned) if isinstance(c, TokenCorrelation) else None for c in found]

    trained = graphs(case.trace)
    rows = []
    for depth in chosen:
        model = case.trace.model.randomised(depth, seed=seed, head=head)
        rows.append(_compare(trained, graphs(case.trace.on(model))))
    curve = [1.0 - row["jaccard"] for row in rows]
    detail: dict[str, Any] = {
        "depths": chosen,
        "curve": [or_none(c) for c in curve],
        **{key: [or_none(row[key]) for row in rows] for key in (rows[0] if rows else ())},
        "head": head,
        "seed": seed,
    }
    value = mean_known(curve)
    if value is None:
        detail["undefined"] = "no graph has an edge"
        return Measured(None, detail)
    detail["reading"] = _reading(curve, [row["chance_jaccard"] for row in rows])
    return Measured(value, detail)


def edge_jaccard(first: PAG, second: PAG) -> tuple[float, float]:
    """Return the Jaccard index of two graphs' edges, and that of chance.

    Parameters
    ----------
    first, second : PAG
        Over the same nodes.

    Returns
    -------
    (float, float)
        NaN, NaN if neither has an edge. Chance: the expected overlap m_a m_b / P of two random
        graphs with m_a and m_b of P possible edges, over what is then their union.
    """
    found = compare_graphs(first, second)
    a, b = first.n_edges, second.n_edges
    if not a + b:
        return math.nan, math.nan
    overlap = a * b / (first.n_nodes * (first.n_nodes - 1) / 2)
    return found.true_positives / (a + b - found.true_positives), overlap / (a + b - overlap)


def _compare(
    trained: Sequence[HeadGraph | None], random: Sequence[HeadGraph | None]
) -> dict[str, Any]:
    """Return the mean comparison over heads that have a graph in both models."""
    rows = []
    for one, other in zip(trained, random, strict=True):
        if one is None or other is None:
            continue
        a, b = _common(one, other)
        if a.n_nodes < 2:
            continue
        jaccard, chance = edge_jaccard(a, b)
        pairs = a.n_nodes * (a.n_nodes - 1) / 2
        done = one.structure.complete and other.structure.complete
        shd = compare_graphs(a, b).shd / pairs
        rows.append((jaccard, chance, shd, a.n_edges, b.n_edges, done))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 6)
    means = [math.nan if (m := mean_known(column)) is None else m for column in columns.T]
    return {
        "jaccard": means[0],
        "chance_jaccard": means[1],
        "shd_share": means[2],
        "edges": means[3],
        "edges_random": means[4],
        "complete": means[5],
        "heads": len(rows),
    }


def _common(one: HeadGraph, other: HeadGraph) -> tuple[PAG, PAG]:
    """Return both graphs restricted to the nodes that stand for the same positions in both."""
    place = {members: node for node, members in enumerate(other.members)}
    mine = [node for node, members in enumerate(one.members) if members in place]
    theirs = [place[one.members[node]] for node in mine]
    marks, others = one.structure.pag.marks, other.structure.pag.marks
    return PAG(marks[np.ix_(mine, mine)]), PAG(others[np.ix_(theirs, theirs)])


def _reading(curve: Sequence[float], chance: Sequence[float]) -> str:
    """Say in words what the deepest randomisation that can be compared shows."""
    changed, expected = [
        (c, 1.0 - j) for c, j in zip(curve, chance, strict=True) if not math.isnan(c)
    ][-1]
    if expected < FLAT:
        return (
            f"not informative: unrelated graphs with as many edges would differ in {expected:.0%} "
            "of them only; learn sparser graphs (more tests, a higher threshold)"
        )
    if changed < FLAT:
        return (
            f"flat: random weights change {changed:.0%} of the edges, so the graph reflects mask "
            "and position only"
        )
    return (
        f"random weights change {changed:.0%} of the edges; unrelated graphs with as many edges "
        f"would differ in {expected:.0%}; agreement beyond that is owed to what both share, mask, "
        "positions and embeddings"
    )


METRICS = (
    (
        graph_mprt,
        MetricInfo(
            "graph_mprt", "graph", "higher", "other",
            "1 - Jaccard of edges with the graphs of a model whose upper layers are random",
            "this package, after Adebayo et al. 2018",
        ),
    ),
)  # fmt: skip
