"""The graphs of one explanation as the interactive page needs them: every head, and all as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.head_graphs import HeadGraphs
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.explanation.union import TokenUnion, union_graph
from causal_lvlm.viz.nodes import node_members
from causal_lvlm.viz.payload_graph import Members, graph_payload, numbers_of, title

__all__ = ["extra_graphs", "graphs_payload"]


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
    found["names"] = [title(graph) for graph in heads]
    return found


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
            weakest = numbers_of(structure, a, b)[0]
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
