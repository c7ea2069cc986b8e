"""A causal explanation read as an attribution: membership, verified effect, radius, edge strength.

An `Explanation` says which units make up a verified set and which stand in the PDS-trees of the
target. To compare it with methods that give one number per unit it is turned into one:

1. Membership m: 1 for the units of the main set, 1/2 for those of a verified set of another scope
   and of verified alternatives of the same size, else 0. Only verified sets count.
2. Verified effect e in [0, 1]: what masking the set did to the target's probability (necessary
   mode: p before - p after; sufficient mode: p with the set alone), shared equally by the members,
   because only the set as a whole was measured; the largest over the sets that hold the unit.
3. Radius r in [0, 1]: (R + 1 - depth) / R, where depth is the smallest over the PDS-trees of all
   heads and R the depth of the deepest of them; 0 outside the trees.
4. Edge strength s in [0, 1]: the weakest edge on the way to the target, an edge counting as the
   smallest |partial correlation| of all tests of its pair (`PairEvidence.weakest`); the strongest
   way of that depth counts in each head, and heads are averaged (a head without the unit gives 0).
5. Attention a in [0, 1]: attention composed over all layers from the token that predicts the
   target, divided by its largest value among the units; an order for what is in no tree, the one
   that the search itself falls back on. Without a trace (`from_explanation` alone) it is 0.
6. score = w_m m + w_e e + w_r r + (w_s / R) s + w_a a. With the default weights (1, 0.4, 5e-4,
   4e-4, 1e-5) no smaller term can outweigh a larger one's step (1/2 > 0.4 + 9e-4 + 1e-5 and
   5e-4/R > 4e-4/R + 1e-5 for R < 10): members first, then the trees by radius, ties by edge
   strength, then the rest by attention. The last three weights give candidates that nobody
   verified an order, and next to no mass: a token that the target cannot see may still correlate
   with it, and would otherwise be credited.

This is this package's own reading; CLEANN itself ends with the set.

References
----------
.. [1] Rohekar, Gurwicz, Nisimov. Causal Interpretation of Self-Attention in Pre-Trained
   Transformers. NeurIPS 2023, arXiv 2310.20307, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.result import Attribution, spread
from causal_lvlm.errors import quoted
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.rasters import decode_images
from causal_lvlm.storage import to_jsonable
from causal_lvlm.summary import pictures_of
from causal_lvlm.tokens import TokenLayout, Units, candidate_units
from causal_lvlm.units import make_units, units_name

__all__ = ["WEIGHTS", "from_explanation"]

WEIGHTS = {
    "membership": 1.0, "effect": 0.4, "radius": 5e-4, "strength": 4e-4, "attention": 1e-5,
}  # fmt: skip
_OTHER_SETS = 0.5
_COMBINED = (
    "membership*m + effect*e + radius*r + strength*s/R + attention*a: m 1 in the main set, 1/2 in "
    "other verified sets; e probability changed by the set / members; r (R+1-depth)/R; s weakest "
    "|partial correlation| on the way, mean over heads; a attention composed over layers / its "
    "maximum"
)


def from_explanation(
    explanation: Explanation,
    units: Units | TokenLayout | str | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    attended: FloatArray | None = None,
) -> Attribution:
    """Turn an explanation, just made or loaded from a file, into scores; no model is needed.

    Parameters
    ----------
    explanation : Explanation
    units : Units, TokenLayout, str or None
        What is scored. A layout or None stands for single tokens (``"patch+token"``); a name is
        resolved by `causal_lvlm.units.make_units` on the layout saved with the explanation. A unit
        takes the best membership, depth and strength of its positions.
    weights : mapping, optional
        Replaces some of `WEIGHTS`: ``membership``, ``effect``, ``radius``, ``strength``,
        ``attention``.
    attended : ndarray of float, shape (T,), optional
        Attention composed over layers from the predicting token to every position; orders the
        units that no tree holds. Without it they are all 0.

    Returns
    -------
    Attribution
        ``model_runs`` are the masked rows that the explanation took. Each unit's score is divided
        evenly among its positions.

    Raises
    ------
    ValueError
        If a weight is unknown, negative or not finite, the units are of a longer sequence, or
        `attended` is not one finite number from 0 on per position.
    """
    used = _checked(weights)
    target = explanation.target
    length = len(explanation.layout)
    resolved, name = _resolved(explanation, units)
    if any(not 0 <= p < length for members in resolved.members for p in members):
        raise ValueError(
            f"the units hold positions beyond the {length} tokens of the explained sequence; "
            "make them from the layout of the trace that was explained"
        )
    parts = _parts(explanation, length)
    if attended is not None:
        parts.attention = _share(attended, resolved, length)
    unit_scores = _unit_scores(parts, resolved, used)
    values = spread(unit_scores, resolved, length)
    values[target.start :] = 0.0
    notes: tuple[str, ...] = (f"the main set's outcome: {explanation.outcome}",)
    if not any(s.verified for s in explanation.sets.values()):
        notes += ("no set was verified: only the PDS-trees are scored",)
    return Attribution(
        method="causal",
        scores=values,
        target=target,
        parameters=to_jsonable(
            {
                "weights": used,
                "combined": _COMBINED,
                "scopes": {k: s.outcome for k, s in explanation.sets.items()},
                "heads": [g.head for g in explanation.graphs],
                "explain": explanation.saved_parameters,
            }
        ),
        model_runs=explanation.model_runs,
        backward_passes=0,
        seconds=explanation.seconds,
        model_id=explanation.model_id,
        revision=explanation.revision,
        versions=explanation.versions,
        units_name=name,
        seed=explanation.seed,
        notes=notes,
    )


def _checked(weights: Mapping[str, float] | None) -> dict[str, float]:
    used = dict(WEIGHTS)
    for name, value in (weights or {}).items():
        if name not in WEIGHTS:
            raise ValueError(f"unknown weight {quoted(name)}; there are {', '.join(WEIGHTS)}")
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"the weight {quoted(name)} must be a number from 0 on, got {value}")
        used[name] = float(value)
    return used


def _resolved(
    explanation: Explanation, units: Units | TokenLayout | str | None
) -> tuple[Units, str]:
    if isinstance(units, Units):
        return units, units_name(units)
    layout = units if isinstance(units, TokenLayout) else explanation.layout
    if not isinstance(units, str):
        return candidate_units(layout, explanation.target), "patch+token"
    images = decode_images(pictures_of(explanation.summary)) or None
    return make_units(layout, explanation.target, units, image=images), units_name(units)


class _Parts:
    """The five terms for every position, float64 (T,)."""

    def __init__(self, length: int) -> None:
        self.membership = np.zeros(length)
        self.effect = np.zeros(length)
        self.depth = np.zeros(length, dtype=np.int64)  # 0: in no tree
        self.strength: list[FloatArray] = []  # one per head
        self.attention = np.zeros(length)
        self.deepest = 1


def _parts(explanation: Explanation, length: int) -> _Parts:
    parts = _Parts(length)
    for one in explanation.sets.values():
        if not one.verified:
            continue
        positions = list(one.positions)
        share = _effect(one, explanation.mode) / max(len(one.units), 1)
        parts.effect[positions] = np.maximum(parts.effect[positions], share)
        for others in (positions, *map(list, one.alternatives)):
            parts.membership[others] = np.maximum(parts.membership[others], _OTHER_SETS)
    if explanation.main.verified:
        parts.membership[list(explanation.main.positions)] = 1.0
    found = [_ways(graph, length) for graph in explanation.graphs]
    for depth, _ in found:
        nearer = (depth > 0) & ((parts.depth == 0) | (depth < parts.depth))
        parts.depth[nearer] = depth[nearer]
    parts.deepest = max(1, int(max((d.max(initial=0) for d, _ in found), default=1)))
    parts.strength = [strength for _, strength in found]
    return parts


def _share(attended: FloatArray, units: Units, length: int) -> FloatArray:
    """Return attention as a share of the most attended unit position, (T,)."""
    values: FloatArray = np.asarray(attended, dtype=np.float64)
    if values.shape != (length,) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"attended must be {length} finite numbers from 0 on, one for every position of the "
            f"explained sequence; got shape {values.shape}"
        )
    most = max((values[p] for members in units.members for p in members), default=0.0)
    return values / most if most > 0 else values


def _effect(one: ExplainingSet, mode: str) -> float:
    if one.probability_after is None:
        return 0.0
    if mode == "sufficient":
        return float(np.clip(one.probability_after, 0.0, 1.0))
    if one.probability_before is None:
        return 0.0
    return float(np.clip(one.probability_before - one.probability_after, 0.0, 1.0))


def _ways(graph: HeadGraph, length: int) -> tuple[Any, FloatArray]:
    """Return depth (0: nowhere) and strength of every position in one head's PDS-tree."""
    tree, n_nodes = graph.tree, len(graph.members)
    evidence = graph.structure.evidence
    way = np.ones(len(tree.node))
    depth = np.zeros(n_nodes, dtype=np.int64)
    strength = np.zeros(n_nodes)
    for entry in range(1, len(tree.node)):
        node, parent = int(tree.node[entry]), int(tree.parent[entry])
        low, high = sorted((node, int(tree.node[parent])))
        # Condensed order of pairs, see `causal_lvlm.structure.evidence`.
        pair = low * n_nodes - low * (low + 1) // 2 + high - low - 1
        weakest = 0.0 if evidence is None else float(abs(evidence.weakest[pair]))
        edge = 0.0 if np.isnan(weakest) else min(weakest, 1.0)
        way[entry] = min(way[parent], edge)
        if depth[node] == 0:
            depth[node] = tree.depth[entry]  # breadth first: the first is the nearest
        if depth[node] == tree.depth[entry]:
            strength[node] = max(strength[node], way[entry])
    depth[graph.target_node] = 0
    positions = np.zeros(length, dtype=np.int64)
    strengths = np.zeros(length)
    for node, members in enumerate(graph.members):
        if node != graph.target_node:
            positions[list(members)] = depth[node]
            strengths[list(members)] = strength[node]
    return positions, strengths


def _unit_scores(parts: _Parts, units: Units, weights: Mapping[str, float]) -> FloatArray:
    scores = np.zeros(len(units))
    for number, members in enumerate(units.members):
        chosen = list(members)
        depths = [d for d in parts.depth[chosen] if d > 0]
        radius = strength = 0.0
        if depths:
            radius = (parts.deepest + 1 - min(depths)) / parts.deepest
            strength = float(np.mean([s[chosen].max() for s in parts.strength]))
        scores[number] = (
            weights["membership"] * parts.membership[chosen].max()
            + weights["effect"] * parts.effect[chosen].max()
            + weights["radius"] * radius
            + weights["strength"] * strength / parts.deepest
            + weights["attention"] * parts.attention[chosen].max()
        )
    return scores
