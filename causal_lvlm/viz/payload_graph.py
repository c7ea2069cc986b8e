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
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.head_graphs import HeadGraphs
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.explanation.union import TokenUnion, union_graph
from causal_lvlm.explanation.wording import amount
from causal_lvlm.structure import LearnedStructure, PDSTree
from causal_lvlm.viz.nodes import TokenGraph, node_members

__all__ = ["extra_graphs", "graph_payload", "graphs_payload", "short"]

Members = tuple[int, ...]
_OCCURRENCES = 72  # of nodes in a PDS-tree; more could not be told apart in a circle


def short(value: float | None, digits: int = 4) -> float | None:
    """Return a number with few digits for JSON; None for nothing, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{digits}g}")


def graphs_payload(
    explanation: Explanation,
    union: TokenUnion | None,
    numbers: Mapping[int, int],
    stability: TargetStability | None = None,
) -> list[dict[str, Any]]:
    """Return the graphs of one explanation: the union first if there is one, then every head.

    Parameters
    ----------
    explanation : Explanation
    union : TokenUnion or None
    numbers : mapping of int to int
        Position -> number of the main set's unit.
    stability : TargetStability, optional
        Of the same target; edges of heads then carry the share of runs that have them.
    """
    heads = list(explanation.graphs)
    shares = _shares(stability)
    found = [graph_payload(g, numbers, cap=_cap(len(heads)), shares=shares) for g in heads]
    if union is not None:
        found.insert(0, _united(union, heads, numbers))
    return found


def extra_graphs(given: HeadGraphs, numbers: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return graphs that were learned for looking at: their union first, then every head.

    Parameters
    ----------
    given : HeadGraphs
    numbers : mapping of int to int
        Position -> number of the main set's unit.
    """
    heads = list(given.graphs)
    cap = 48 if len(heads) <= 8 else 24 if len(heads) <= 16 else 16
    found = [graph_payload(graph, numbers, cap=cap) for graph in heads]
    if len(heads) > 8:  # pairs that nobody asks about first: with many heads most of the page
        for graph in found:
            asked = {graph["target"]} | {
                at for at, (unit, _) in enumerate(graph["nodes"]) if any(p in numbers for p in unit)
            }
            graph["apart"] = [pair for pair in graph["apart"] if asked & {pair[0], pair[1]}]
    if len(heads) > 1:
        found.insert(0, _united(union_graph(heads), heads, numbers))
    where = f"attention of layer {given.parameters.get('layer')}, learned for this view only"
    for graph in found:
        graph["extra"] = True
        graph["facts"] = [where, *graph["facts"]]
    return found


def _cap(heads: int) -> int:
    """Return how many nodes of each head are sent."""
    return 48 if heads <= 8 else 32 if heads <= 16 else 24


def _united(
    union: TokenUnion, heads: Sequence[HeadGraph], numbers: Mapping[int, int]
) -> dict[str, Any]:
    found = graph_payload(union, numbers, cap=40)
    found["voters"], found["perHead"] = _voters(union, heads, found)
    found["names"] = [_title(graph) for graph in heads]
    return found


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
            said = [None, None, None] if structure is None else _numbers(structure, i, j)
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
        "title": "All heads" if union is not None else _title(graph),
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


def _title(graph: TokenGraph) -> str:
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


def _numbers(structure: LearnedStructure, i: int, j: int) -> list[Any]:
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


def _shares(stability: TargetStability | None) -> dict[tuple[Members, Members], float]:
    """Return the frequency of every pair, keyed by positions: node numbers differ per graph."""
    if stability is None:
        return {}
    units = [tuple(int(p) for p in unit) for unit in stability.members]
    share = stability.edges.edge_frequency
    found = {}
    for i, first in enumerate(units):
        for j in range(i + 1, len(units)):
            low, high = sorted((first, units[j]))
            found[low, high] = float(share[i, j])
    return found


def _voters(
    union: TokenUnion, heads: Sequence[HeadGraph], payload: Mapping[str, Any]
) -> tuple[list[list[int]], list[list[Any]]]:
    """Return for every edge of the payload the heads that have it, and what each head says of it.

    Heads are indices of `heads`. What a head says is [weakest |partial r|, positions that separate
    the pair, or None where it has the edge], or None where it lacks one of the nodes.
    """
    where = [
        {unit: node for node, unit in enumerate(node_members(graph))} for graph in heads
    ]  # the same token may be another node in each head
    marks = [np.asarray(graph.structure.pag.marks) for graph in heads]
    found, said = [], []
    for i, j, *_ in payload["edges"]:
        ends = [tuple(payload["nodes"][k][0]) for k in (i, j)]
        voters = []
        entries: list[Any] = []
        for head, nodes in enumerate(where):
            a, b = nodes.get(ends[0]), nodes.get(ends[1])
            if a is None or b is None:
                entries.append(None)
                continue
            structure = heads[head].structure
            weakest = _numbers(structure, a, b)[0]
            if marks[head][a, b]:
                voters.append(head)
                entries.append([weakest, None])
            else:
                between = structure.sepset(a, b) or ()
                members = node_members(heads[head])
                entries.append([weakest, [members[k][0] for k in between]])
        found.append(voters)
        said.append(entries)
    return found, said


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
