"""A learned graph as the interactive page needs it: what can be looked at, and no more.

1. Nodes that are drawn: the target, the explaining set, and the target's PDS-tree by radius, then
   by strength of the edge to the target, up to a cap that falls with the number of heads.
2. Every edge between drawn nodes with a mark at each end and the numbers of its tests; for pairs
   without an edge the separating set. Pairs of nodes that are not drawn are not sent: of 576
   patches they would be 165,600.
3. Everything the PDS-tree holds at each radius, as positions only, so that the slider can show all
   candidates on the image.

Lists instead of mappings keep the page small; `graph_payload` names every column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.explanation.union import TokenUnion
from causal_lvlm.explanation.wording import amount
from causal_lvlm.structure import LearnedStructure, PDSTree
from causal_lvlm.viz.nodes import TokenGraph, node_members

__all__ = ["Members", "graph_payload", "numbers_of", "short", "title"]

Members = tuple[int, ...]
_OCCURRENCES = 72  # of nodes in a PDS-tree; more could not be told apart in a circle


def short(value: float | None, digits: int = 4) -> float | None:
    """Return a number with few digits for JSON; None for nothing, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{digits}g}")


def graph_payload(
    graph: TokenGraph,
    numbers: Mapping[int, int],
    *,
    cap: int = 48,
    shares: Mapping[tuple[Members, Members], float] | None = None,
) -> dict[str, Any]:
    """Return one graph.

    Parameters
    ----------
    graph : HeadGraph or TokenUnion
    numbers : mapping of int to int
        Position -> number of the main set's unit.
    cap : int
        Most nodes that are drawn.
    shares : mapping, optional
        Share of runs for pairs of nodes, keyed by their positions, smaller first.

    Returns
    -------
    dict
        ``head`` (None of the union), ``title``, ``facts``; ``target``: index in ``nodes``;
        ``nodes``: [positions, depth or -1]; ``edges``: [i, j, mark at i, mark at j, share,
        weakest, p, tests]; ``apart``: [i, j, positions that separate, weakest, p, tests];
        ``reach``: [positions, depth] of all nodes of the tree; ``tree``: node (index in
        ``nodes``), parent, depth of the occurrences that are drawn; ``total``: what there is in
        all; ``level``: smallest |r| that counts as dependence.
    """
    members = node_members(graph)
    union = graph if isinstance(graph, TokenUnion) else None
    structure = None if isinstance(graph, TokenUnion) else graph.structure
    marks = graph.structure.pag.marks
    sure = None if union is None else union.confidence
    shown, depth = _shown(graph, members, numbers, cap)
    index = {node: at for at, node in enumerate(shown)}
    edges: list[list[Any]] = []
    apart: list[list[Any]] = []
    for at, i in enumerate(shown):
        for j in shown[at + 1 :]:
            said = [None, None, None] if structure is None else numbers_of(structure, i, j)
            if marks[i, j] or marks[j, i]:
                share = _share(sure, shares, i, j, members)
                ends = [index[i], index[j], int(marks[j, i]), int(marks[i, j])]
                edges.append([*ends, short(share, 3), *said])
            elif structure is not None:
                between = structure.sepset(i, j)
                if between is not None:
                    places = [members[k][0] for k in between]
                    apart.append([index[i], index[j], places, *said])
    return {
        "head": graph.head,
        "title": "All heads" if union is not None else title(graph),
        "united": union is not None,
        "facts": _facts(graph),
        "target": index[graph.target_node],
        "nodes": [[list(members[n]), depth.get(n, -1)] for n in shown],
        "edges": edges,
        "apart": apart,
        "reach": [[list(members[n]), d] for n, d in depth.items() if d > 0],
        "tree": _tree(graph.tree, index),
        "total": {
            "nodes": len(members),
            "edges": int(np.count_nonzero(np.triu(marks, k=1))),
            "tree": len(graph.tree) - 1,
        },
        "level": None if structure is None else short(structure.min_abs_partial),
    }


def title(graph: TokenGraph) -> str:
    """Return what a head's graph is called."""
    return "All layers" if graph.head is None else f"Head {graph.head}"


def _shown(
    graph: TokenGraph, members: Sequence[Members], numbers: Mapping[int, int], cap: int
) -> tuple[list[int], dict[int, int]]:
    """Return the nodes that are drawn, ascending, and the depth of all nodes of the tree."""
    depth: dict[int, int] = {}
    for node, level in zip(graph.tree.node.tolist(), graph.tree.depth.tolist(), strict=True):
        depth.setdefault(int(node), int(level))  # breadth-first: the first is the smallest
    target = int(graph.target_node)
    inside = [n for n, unit in enumerate(members) if any(p in numbers for p in unit)]
    inside.sort(key=lambda n: (depth.get(n, len(members)), n))
    near = sorted(depth, key=lambda n: (depth[n], -_strength(graph, target, n)))
    chosen = dict.fromkeys([target, *inside[: cap // 2], *near])
    return sorted(list(chosen)[:cap]), depth


def _strength(graph: TokenGraph, target: int, node: int) -> float:
    """Return how strong the edge of a node to the target is: of too many the strongest are drawn.

    The sort is stable, so where nothing is known they stay in breadth-first order.
    """
    if node == target:
        return math.inf
    if isinstance(graph, TokenUnion):
        return float(graph.confidence[target, node])
    if graph.structure.evidence is None:
        return 0.0
    value = graph.structure.weakest(target, node)
    return value if math.isfinite(value) else 0.0


def numbers_of(structure: LearnedStructure, i: int, j: int) -> list[Any]:
    """Return weakest |partial correlation|, largest p and number of tests of a pair."""
    if structure.evidence is None:
        return [None, None, None]
    p = structure.p_value(i, j)
    return [short(structure.weakest(i, j)), short(p, 3), structure.tests_of(i, j)]


def _share(
    sure: FloatArray | None,
    shares: Mapping[tuple[Members, Members], float] | None,
    i: int,
    j: int,
    members: Sequence[Members],
) -> float | None:
    if sure is not None:
        return float(sure[i, j])
    first, second = sorted((members[i], members[j]))
    return (shares or {}).get((first, second))


def _tree(tree: PDSTree, index: Mapping[int, int]) -> dict[str, list[int]]:
    """Return the first occurrences of the tree whose nodes are drawn; parents stay with them."""
    place: dict[int, int] = {}
    found: dict[str, list[int]] = {"node": [], "parent": [], "depth": []}
    rows = zip(tree.node.tolist(), tree.parent.tolist(), tree.depth.tolist(), strict=True)
    for at, (node, parent, depth) in enumerate(rows):
        if len(place) > _OCCURRENCES:
            break
        if node not in index or (parent >= 0 and parent not in place):
            continue
        place[at] = len(place)
        found["node"].append(index[node])
        found["parent"].append(-1 if parent < 0 else place[parent])
        found["depth"].append(int(depth))
    return found


def _facts(graph: TokenGraph) -> list[str]:
    """Return what a reader should know of how the graph was learned, as short clauses."""
    if isinstance(graph, TokenUnion):
        return [
            f"graphs of {amount(len(graph.heads), 'head')} as one",
            "no single head has learned it as a whole",
        ]
    structure, facts = graph.structure, []
    parameters = structure.parameters
    if parameters.get("threshold") is not None:
        facts.append(f"dependence: |partial r| above {parameters['threshold']:g}")
    elif parameters.get("alpha") is not None:
        facts.append(f"{parameters.get('n_samples')} samples, alpha {parameters['alpha']:g}")
    facts.append(f"{structure.n_tests} tests of independence")
    if not structure.complete:
        facts.append(f"learning was not complete: {structure.stopped}")
    if math.isfinite(graph.sink_mass):
        facts.append(f"{100 * graph.sink_mass:.0f} % of the attention goes to sinks")
    return facts
