"""Graph recovery: attention whose causal graph is known, learned the way real attention is.

1. Take known structures (`causal_lvlm.metrics.known`): attention with exactly the correlation of a
   chosen linear causal model, some tokens of which may be latent.
2. That attention goes through the same code as a model's: `attention_correlation`,
   `learn_structure`, `pds_tree` of the target (the last token).
3. The result is compared with the true PAG, which is derived by definition, not by a learner.
4. Value: F1 of the edges. Beside it: precision, recall, structural Hamming distance, accuracy of
   the marks, ``exact``, and whether the target's true causes lie in its PDS-tree: ``parents`` at
   radius 1 and ``ancestors`` within `max_radius`, in the observed part of the structure. Parents
   are neighbours of the target in the true PAG, so they are always there when it is learned.
   Ancestors need not be: a PDS-path goes on through colliders and triangles only, so of
   ``x0 -> x1 -> target`` the tree of the *true* graph holds x1 but not x0.
5. `noise` mixes each row with random attention to earlier tokens, `threshold` is that of the
   learner: with neither noise nor threshold (1e-6) recovery is exact, the default threshold loses
   weak edges, and both show how fast the graph degrades.

What this proves: if attention is the mixing of a linear causal model, the path from attention to
the PAG recovers its graph, with latent tokens and the target's row as used here. What it does not
prove: that attention of a trained model is such a mixing, or that an edge means an effect on the
answer. For the first nothing is claimed; the second is what masking (`causal_lvlm.explain`) tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from causal_lvlm.checks import whole_number
from causal_lvlm.correlation import attention_correlation
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.known import KnownStructure
from causal_lvlm.structure import PAG, compare_graphs, learn_structure, pds_tree

__all__ = ["METRICS", "graph_recovery"]


def graph_recovery(
    structures: KnownStructure | Sequence[KnownStructure],
    *,
    noise: float = 0.0,
    seed: int = 0,
    threshold: float | None = None,
    max_radius: int = 3,
    algorithm: str = "ordered_icd",
    max_tests: int | None = None,
    **correlation_options: Any,
) -> Measured:
    """Return how well the graphs of known structures are learned from their attention.

    Parameters
    ----------
    structures : KnownStructure or sequence of them
    noise : float in [0, 1)
        See `KnownStructure.attention`; structure k is given ``seed + k``.
    seed : int
    threshold : float, optional
        Smallest |partial correlation| that counts; by default that of `attention_correlation`.
        1e-6 asks for all there is.
    max_radius : int
        Of the PDS-trees.
    algorithm, max_tests
        See `causal_lvlm.learn_structure`; the algorithm must use the order (``ordered_icd``,
        ``fci``).
    **correlation_options
        See `causal_lvlm.correlation.attention_correlation` (``source``, ``sink``, ``row``, ...).

    Returns
    -------
    Measured
        Higher is better: mean F1 of the edges over structures that have or were given one. The
        detail holds means of every figure and ``each``, one row for each structure.

    Raises
    ------
    ValueError
        If there is no structure, one has too many edges, or an option is out of range.
    """
    several = [structures] if isinstance(structures, KnownStructure) else list(structures)
    if not several:
        raise ValueError("structures must hold at least one KnownStructure")
    whole_number("max_radius", max_radius, 1)
    rows = []
    for k, structure in enumerate(several):
        found = attention_correlation(
            structure.trace(noise=noise, seed=seed + k), 0, head=0, threshold=threshold,
            **correlation_options,
        )  # fmt: skip
        order: dict[str, Any] = {} if algorithm == "ordered_icd" else {"tiers": found.tiers}
        learned = learn_structure(found, algorithm=algorithm, max_tests=max_tests, **order)
        rows.append(_figures(structure, learned.pag, found, max_radius))
    names = [name for name in rows[0] if name != "threshold"]
    detail: dict[str, Any] = {
        name: _mean([row[name] for row in rows if row[name] is not None]) for name in names
    }
    detail |= {"threshold": rows[0]["threshold"], "noise": noise, "seed": seed, "each": rows}
    value = detail.pop("f1")
    if value is None:
        detail["undefined"] = "neither the true nor a learned graph has an edge"
    return Measured(value, detail)


def _figures(structure: KnownStructure, pag: PAG, found: Any, max_radius: int) -> dict[str, Any]:
    """Compare one learned graph with the truth; the nodes are the observed tokens."""
    node_of = {int(p): node for node, p in enumerate(found.positions)}
    if sorted(node_of) != structure.observed.tolist():
        raise ValueError(
            f"nodes stand for the tokens {sorted(node_of)}, but {structure.observed.tolist()} are "
            "observed; choose options that keep every token (row='own', no top_k)"
        )
    comparison = compare_graphs(pag, structure.true_pag())
    target = found.target_node
    tree = pds_tree(pag, target, max_radius)
    near, inside = set(tree.within(1)), set(tree.within(max_radius))
    parents = {node_of[p] for p in structure.parents()}
    ancestors = {node_of[p] for p in structure.ancestors()}
    figures = {
        "f1": comparison.f1,
        "precision": comparison.precision,
        "recall": comparison.recall,
        "mark_accuracy": comparison.mark_accuracy,
        "shd": comparison.shd,
        "exact": float(comparison.same),
        "parents": len(parents & near) / len(parents) if parents else None,
        "ancestors": len(ancestors & inside) / len(ancestors) if ancestors else None,
        "tree_size": len(inside),
        "threshold": found.threshold,
    }
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in figures.items()}


def _mean(values: npt.ArrayLike) -> float | None:
    found = np.asarray(values, dtype=np.float64)
    return float(found.mean()) if found.size else None


METRICS = (
    (
        graph_recovery,
        MetricInfo(
            "graph_recovery", "graph", "higher", "other",
            "F1 of edges learned from attention whose causal graph is known",
            "this package; attention as mixing: Rohekar et al. 2023, arXiv 2310.20307, section 4",
        ),
    ),
)  # fmt: skip
