"""One learned graph per attention head, with the PDS-tree of the target.

1. Correlation of every head (`causal_lvlm.correlation`).
2. Structure learning, heads in parallel: the compiled learner releases the interpreter lock.
3. PDS-tree of the target's node up to the radius asked for.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from causal_lvlm.arrays import IntArray
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.errors import CorrelationError
from causal_lvlm.explanation.candidates import UnitTree, unit_tree
from causal_lvlm.fields import (
    Check,
    array,
    damaged,
    many,
    maybe,
    number,
    record,
    rows,
    text,
    whole,
)
from causal_lvlm.structure import LearnedStructure, PDSTree, learn_structure, pds_tree
from causal_lvlm.structure.named import from_dict as pag_from_dict
from causal_lvlm.structure.saved import evidence_arrays, separations, summary_fields
from causal_lvlm.tokens import TokenLayout, Units

__all__ = ["EVIDENCE", "HeadGraph", "graph_outcome", "learn_graphs", "unit_trees"]

# Arrays of a LearnedStructure that say why edges are there or missing.
EVIDENCE = ("separator_start", "separator_nodes", "undecided", "weakest", "z", "tests")


@dataclass(frozen=True)
class HeadGraph:
    """A learned graph over tokens and the PDS-tree of the target in it.

    Attributes
    ----------
    head : int or None
        None where heads were combined.
    structure : LearnedStructure
    tree : PDSTree
        Rooted at `target_node`.
    positions : ndarray of int64, shape (N,)
        First sequence position of each node.
    members : tuple of tuple of int
        All positions of each node.
    labels : tuple of str
        Short name of each node.
    target_node : int
    sink_mass : float
    sinks : tuple of int
        Positions that are attention sinks in this head.
    dropped : tuple of (int, str)
        Positions that are no node, and why.
    candidate_mass : float
        Share of the weight of the target's row on its candidates; see `TokenCorrelation`.
    """

    head: int | None
    structure: LearnedStructure
    tree: PDSTree
    positions: IntArray
    members: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    target_node: int
    sink_mass: float
    sinks: tuple[int, ...] = ()
    dropped: tuple[tuple[int, str], ...] = ()
    candidate_mass: float = math.nan

    @property
    def isolated(self) -> bool:
        """Whether the target has no neighbour, so that the tree is empty."""
        return len(self.tree.node) <= 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: marks as an edge list, tree, and the evidence for missing edges."""
        structure = self.structure
        return {
            "head": self.head,
            "positions": self.positions.tolist(),
            "members": [list(m) for m in self.members],
            "labels": list(self.labels),
            "target_node": self.target_node,
            "sink_mass": self.sink_mass,
            "sinks": list(self.sinks),
            "dropped": [list(d) for d in self.dropped],
            "candidate_mass": None if math.isnan(self.candidate_mass) else self.candidate_mass,
            "tree": self.tree.to_dict(),
            "pag": structure.pag.to_dict(),
            "structure": structure.summary(),
            **{name: _plain(values) for name, values in self.evidence().items()},
        }

    def evidence(self) -> dict[str, Any]:
        """Return the arrays that say why edges are there or missing: sepsets, and what tests said.

        See `LearnedStructure` and `PairEvidence` for their meaning.
        """
        pairs = self.structure.evidence
        return {
            name: getattr(self.structure if name in EVIDENCE[:3] else pairs, name)
            for name in (EVIDENCE[:3] if pairs is None else EVIDENCE)
        }

    @staticmethod
    def check(n_positions: int) -> Check:
        """Return the check of a saved graph (see `causal_lvlm.fields`).

        Parameters
        ----------
        n_positions : int
            Of the run whose tokens are its nodes.
        """
        position = whole(0, n_positions - 1)
        read_nodes = record({"members": many(many(position, least=1), least=1)})

        def check(value: Any, where: str) -> HeadGraph:
            n = len(read_nodes(value, where)["members"])
            schema = {
                "head": maybe(whole(0)),
                "positions": array(np.int64, n, low=0, high=n_positions - 1),
                "members": many(many(position, least=1)),
                "labels": many(text, length=n),
                "target_node": whole(0, n - 1),
                "sink_mass": number(nan=True),
                "sinks": many(position),
                "dropped": many(rows(position, text)),
                "candidate_mass": number(nan=True),  # files of version 0.1 do not have it
                "tree": PDSTree.check(n),
                "pag": lambda found, _: pag_from_dict(found),
                "structure": lambda found, place: summary_fields(n, found, place),
            }
            fields = record(schema, {"candidate_mass"})(value, where)
            summary, tree, pag = fields.pop("structure"), fields["tree"], fields.pop("pag")
            if pag.n_nodes != n:
                raise damaged(f"{where}.pag", f"has {pag.n_nodes} nodes instead of {n}")
            if tree.root != fields["target_node"]:
                raise damaged(f"{where}.tree", "has another root than the target")
            structure = LearnedStructure(
                pag=pag,
                **separations(pag, value, where),
                evidence=evidence_arrays(n, value, where),
                **summary,
            )
            return HeadGraph(structure=structure, **fields)

        return check

    def to_networkx(self) -> Any:
        """Return the PAG as a networkx graph whose nodes carry label and position."""
        graph = self.structure.pag.to_networkx()
        for node in range(len(self.members)):
            graph.nodes[node]["label"] = self.labels[node]
            graph.nodes[node]["position"] = int(self.positions[node])
            graph.nodes[node]["target"] = node == self.target_node
        return graph


def _plain(values: Any) -> list[Any]:
    """Return a list in which None stands for NaN."""
    items: list[Any] = values.tolist()
    return [None if item != item else item for item in items]


def learn_graphs(
    correlations: Sequence[TokenCorrelation | CorrelationError],
    layout: TokenLayout,
    target_text: str,
    *,
    max_radius: int,
    alpha: float | None,
    algorithm: str,
    variant: str,
    max_conditioning_size: int | None,
    max_tests: int | None,
    deadline: float | None = None,
    n_jobs: int | None = None,
) -> tuple[HeadGraph, ...]:
    """Learn one graph per correlation; entries that are errors are skipped.

    Parameters
    ----------
    correlations : sequence of TokenCorrelation or CorrelationError
    layout : TokenLayout
        For the labels.
    target_text : str
        Label of the target's node.
    max_radius : int
        Depth of the PDS-trees.
    alpha, algorithm, variant, max_conditioning_size, max_tests
        See `learn_structure`.
    deadline : float, optional
        Value of ``time.monotonic()`` at which learning ends; graphs then say ``complete=False``.
    n_jobs : int, optional
        Threads; default is the number of processors, at most one per head. The result does not
        depend on it.

    Returns
    -------
    tuple of HeadGraph

    Raises
    ------
    CorrelationError, SampleSizeError
        From the learner.
    """
    usable = [c for c in correlations if isinstance(c, TokenCorrelation)]

    def one(correlation: TokenCorrelation) -> HeadGraph:
        structure = learn_structure(
            correlation.correlation,
            n_samples=correlation.n_samples,
            threshold=correlation.threshold,
            alpha=alpha,
            algorithm=algorithm,
            tiers=correlation.tiers if algorithm == "ordered_icd" else None,
            variant=variant,
            max_conditioning_size=max_conditioning_size,
            max_tests=max_tests,
            # At least a moment: the order-0 graph is better than none.
            time_limit=None if deadline is None else max(deadline - time.monotonic(), 0.01),
        )
        names = [layout.label(int(p)) for p in correlation.positions]
        names[correlation.target_node] = target_text
        return HeadGraph(
            head=correlation.head,
            structure=structure,
            tree=pds_tree(structure.pag, root=correlation.target_node, max_depth=max_radius),
            positions=correlation.positions,
            members=correlation.members,
            labels=tuple(names),
            target_node=correlation.target_node,
            sink_mass=correlation.sink_mass,
            sinks=correlation.sinks,
            dropped=correlation.dropped,
            candidate_mass=correlation.candidate_mass,
        )

    workers = min(len(usable), n_jobs or os.cpu_count() or 1)
    if workers <= 1:
        return tuple(one(c) for c in usable)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return tuple(pool.map(one, usable))


def unit_trees(graphs: Iterable[HeadGraph], units: Units, scope: Sequence[int]) -> list[UnitTree]:
    """Return the PDS-tree of every graph over the units of a scope."""
    return [unit_tree(g.head, g.tree, units.of_nodes(g.members), scope) for g in graphs]


def graph_outcome(graphs: Sequence[HeadGraph], n_units: int) -> str:
    """Return what became of the graphs, see `Explanation`."""
    if not n_units:
        return "first_position"
    if not graphs:
        return "target_dropped"
    return "isolated" if all(g.isolated for g in graphs) else "candidates"
