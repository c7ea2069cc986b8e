"""What a verified causal graph is: edges over tokens, and what the model said when they were cut.

Two sets of edges are put to the model as a whole (`EdgeSet`): the **sufficient** graph, which alone
keeps the answer with every other content edge cut, and the **necessary** cut, which ends it. Beside
them stands the learned graph with its marks, and the same graph reconciled with what interventions
proved: nothing in it denies a `Cause`, which the constructor of `CausalGraph` checks.

Nodes are numbered as in `causal_lvlm.edges.Nodes`: units, special tokens, and the target last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx

from causal_lvlm.edges import Nodes
from causal_lvlm.errors import StructureError
from causal_lvlm.explanation.edge_results import (
    CausalEdge,
    Cause,
    Contradiction,
    EdgeSet,
    denied,
)
from causal_lvlm.explanation.graph_words import graph_sentences, refuted_sentences
from causal_lvlm.fields import (
    Check,
    choice,
    damaged,
    instance,
    many,
    maybe,
    number,
    reading,
    record,
    rows,
    settings,
    table,
    text,
    whole,
)  # fmt: skip
from causal_lvlm.storage import read_json, write_json
from causal_lvlm.structure import PAG
from causal_lvlm.structure.export import dot_text, graphml_text
from causal_lvlm.structure.named import from_dict as pag_from_dict
from causal_lvlm.summary import MAX_POSITIONS, check_summary, target_check
from causal_lvlm.tokens import MODALITIES, Target, TokenLayout

__all__ = ["CausalGraph"]

FORMAT = 1
_END_NAMES = {"<": "arrow", ">": "arrow", "o": "circle", "-": "tail"}


@dataclass(frozen=True)
class CausalGraph:
    """A causal graph over image and text tokens, tested on the model.

    Attributes
    ----------
    target : Target
    nodes : Nodes
    labels : tuple of str
        Short name of each node.
    frame : tuple of int
        Positions whose outgoing edges are never cut nor counted: special and template tokens.
    kind : {"mask", "value"}
        How edges were cut.
    sufficient, necessary : EdgeSet
    edges : tuple of CausalEdge
        Edges of the learned and the reconciled graph, and of the verified sets.
    learned_pag, pag : PAG or None
        Over the nodes: as learned, and reconciled with the causes. None where none was learned.
    causes : tuple of Cause
    contradictions : tuple of Contradiction
    faithfulness : float or None
        Of the learned graph, never of the reconciled one: (m(kept) - m(none)) / (m(all) - m(none))
        with all content edges cut but its own; None where it was not asked, or the answer hardly
        needs content edges (less than one logit).
    model_runs : int
        Runs with edges cut, and the unmasked one where it was made for this graph.
    parameters : dict
    remarks : tuple of str
        What must be known to read it, such as that the image enters by cross-attention.
    summary : dict
        What the trace was, see ``Trace.to_dict``; empty as part of an `Explanation`.

    Raises
    ------
    StructureError
        If the reconciled graph denies a cause.
    """

    target: Target
    nodes: Nodes
    labels: tuple[str, ...]
    frame: tuple[int, ...]
    kind: str
    sufficient: EdgeSet
    necessary: EdgeSet
    edges: tuple[CausalEdge, ...]
    learned_pag: PAG | None
    pag: PAG | None
    causes: tuple[Cause, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    faithfulness: float | None = None
    model_runs: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict, repr=False)
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that nothing drawn denies what was verified."""
        if self.pag is None:
            return
        for cause in self.causes:
            how = denied(self.pag, cause.node, self.nodes.target)
            if how is not None:
                raise StructureError(
                    f"the graph denies a verified cause ({how} at {self.labels[cause.node]!r}): "
                    f"{cause.evidence}"
                )

    @property
    def verified(self) -> bool:
        """Whether the model confirmed both the sufficient graph and the necessary cut."""
        return self.sufficient.verified and self.necessary.verified

    def sentences(self) -> tuple[str, ...]:
        """Say in plain words what was tested, and what the model said."""
        found = graph_sentences(
            self.target, self.nodes, self.labels, self.sufficient, self.necessary
        )
        return (*found, *(f"{text[0].upper()}{text[1:]}." for text in self.remarks if text))

    def refuted(self) -> tuple[str, ...]:
        """Say what the learned graph claims and interventions refuted, with both pieces."""
        return refuted_sentences(self.contradictions, self.labels, self.labels[self.nodes.target])

    def routes(self, most: int = 50) -> tuple[str, ...]:
        """Return the ways from image, prompt and earlier words to the target, as sentences.

        Ways go along the sufficient graph (the necessary cut where there is none). A step out of a
        special token belongs to the frame, and is marked as such.

        Parameters
        ----------
        most : int
            Most routes to return, shortest first.
        """
        return tuple(self._said(way) for way in list(self._ways())[:most])

    def _ways(self) -> Iterator[list[int]]:
        chosen = self.sufficient if self.sufficient.verified else self.necessary
        graph = nx.DiGraph(list(chosen.node_edges))
        graph.add_node(self.nodes.target)
        for node in [n for n in graph if self.nodes.kinds[n] == "special"]:
            graph.add_edge(node, self.nodes.target)
        starts = [n for n in graph if n != self.nodes.target and not graph.in_degree(n)]
        ways = [
            way for s in sorted(starts) for way in nx.all_simple_paths(graph, s, self.nodes.target)
        ]
        yield from sorted(ways, key=lambda way: (len(way), way))

    def _said(self, way: list[int]) -> str:
        words = [self.labels[way[0]]]
        for before, node in pairwise(way):
            arrow = "⇢ (frame)" if self.nodes.kinds[before] == "special" else "→"
            words += [arrow, self.labels[node]]
        return " ".join(words)

    def to_networkx(self) -> nx.DiGraph:
        """Return verified and reconciled edges as a networkx graph, with what is known about them.

        An arc runs from what is read to what reads it. Attributes of an arc: ``verified``,
        ``estimated`` and ``measured`` (where known), ``kind``, ``mark_source``, ``mark_target``:
        marks of the reconciled graph; a verified edge that it lacks has those of an arrow. What
        was learned and refuted is not in it.
        """
        graph = nx.DiGraph(kind="pag", target=self.nodes.target)
        shown = [e for e in self.edges if e.marks or e.verified != "none"]
        used = {n for e in shown for n in (e.source, e.reader)} | {self.nodes.target}
        for node in sorted(used):
            positions = " ".join(map(str, self.nodes.members[node]))
            graph.add_node(
                node, label=self.labels[node], kind=self.nodes.kinds[node], positions=positions
            )
        for edge in shown:
            marks = edge.marks or "-->"
            ends = (_END_NAMES[marks[0]], _END_NAMES[marks[-1]])
            values = {"kind": marks, "mark_source": ends[0], "mark_target": ends[1]}
            effects = {"estimated": edge.estimated, "measured": edge.measured}
            known = {k: v for k, v in effects.items() if v is not None}
            graph.add_edge(edge.source, edge.reader, verified=edge.verified, **values, **known)
        return graph

    def to_graphml(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """Return GraphML of `to_networkx`, or write it to ``path`` and return that.

        Parameters
        ----------
        path : str or path-like, optional
        """
        return graphml_text(self.to_networkx(), path)

    def to_dot(self) -> str:
        """Return `to_networkx` in Graphviz's DOT language: verified edges bold, with effects."""
        graph = self.to_networkx()
        looks = {}
        for u, v, data in graph.edges(data=True):
            look = f', verified="{data["verified"]}"'
            look += "".join(
                f', {k}="{data[k]:.6g}"' for k in ("estimated", "measured") if k in data
            )
            if data["verified"] != "none":
                fall = f" {-data['measured']:+.2f}" if "measured" in data else ""
                look += f', penwidth=3, label="{data["verified"]}{fall}"'
            looks[u, v] = look
        return dot_text(graph, "causal", looks)

    # -- on disk ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data; `load` reads it back."""
        return {
            "kind": "causal graph",
            "format": FORMAT,
            "target": asdict(self.target),
            "members": [list(m) for m in self.nodes.members],
            "kinds": list(self.nodes.kinds),
            "labels": list(self.labels),
            "frame": list(self.frame),
            "cut": self.kind,
            "sufficient": asdict(self.sufficient),
            "necessary": asdict(self.necessary),
            "edges": [asdict(e) for e in self.edges],
            "learned_pag": None if self.learned_pag is None else self.learned_pag.to_dict(),
            "pag": None if self.pag is None else self.pag.to_dict(),
            "causes": [asdict(c) for c in self.causes],
            "contradictions": [asdict(c) for c in self.contradictions],
            "faithfulness": self.faithfulness,
            "model_runs": self.model_runs,
            "parameters": dict(self.parameters),
            "remarks": list(self.remarks),
            "trace": dict(self.summary),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the graph as JSON; raises `OutputError` if it cannot.

        Parameters
        ----------
        path : str or path-like
        """
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CausalGraph:
        """Read a graph that `save` wrote.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        OutputError
            If the file is missing, damaged, or no causal graph.
        """
        value = read_json(path, "causal graph", format=FORMAT)
        with reading(path, "causal graph"):
            found: CausalGraph = cls.check()(value, "")
            return found

    @staticmethod
    def check(n_positions: int = MAX_POSITIONS) -> Check:
        """Return the check of a saved graph (see `causal_lvlm.fields`).

        Parameters
        ----------
        n_positions : int
            Of the run.
        """
        read_nodes = record({"members": many(_any, least=1), "trace": table(_any)})

        def check(value: Any, where: str) -> CausalGraph:
            seen = read_nodes(value, where)
            layout = (
                check_summary(seen["trace"], "trace", whole_run=False) if seen["trace"] else None
            )
            n, length = len(seen["members"]), n_positions if layout is None else len(layout)
            found = _schema(n, length, layout)(value, where)
            nodes = Nodes(found.pop("members"), found.pop("kinds"))
            if nodes.kinds[-1] != "target" or "target" in nodes.kinds[:-1]:
                raise damaged(f"{where}.kinds" if where else "kinds", "must have the target last")
            for name in ("learned_pag", "pag"):
                if found[name] is not None and found[name].n_nodes != n:
                    raise damaged(f"{where}.{name}", f"has other nodes than the graph's {n}")
            return CausalGraph(nodes=nodes, kind=found.pop("cut"), summary=seen["trace"], **found)

        return check


def _any(found: Any, where: str) -> Any:
    return found


def _schema(n: int, n_positions: int, layout: TokenLayout | None) -> Check:
    """Return the check of the fields of a saved graph of n nodes."""
    node, position = whole(0, n - 1), whole(0, n_positions - 1)
    graph, share = maybe(lambda found, _: pag_from_dict(found)), maybe(number(0.0, 1.0 + 1e-6))
    one = instance(
        EdgeSet,
        edges=many(rows(position, position)), node_edges=many(rows(node, node)), probability=share,
        random_rate=share, minimality=choice("minimum", "irreducible", "none"),
        n_random=whole(0), model_runs=whole(0), n_tried=whole(0),
    )  # fmt: skip
    edge = instance(
        CausalEdge, source=node, reader=node,
        verified=choice("sufficient", "necessary", "both", "none"),
    )  # fmt: skip
    refuted = instance(Contradiction, node=node, kind=choice("arrowhead", "no path"))
    return record(
        {
            "target": target_check(layout),
            "members": many(many(position, least=1), length=n),
            "kinds": many(choice(*MODALITIES, "target"), length=n),
            "labels": many(text, length=n), "frame": many(position), "cut": choice("mask", "value"),
            "sufficient": one, "necessary": one, "edges": many(edge),
            "learned_pag": graph, "pag": graph,
            "causes": many(instance(Cause, node=node, by=choice("mask", "cut"))),
            "contradictions": many(refuted),
            "faithfulness": maybe(number()), "model_runs": whole(0), "parameters": settings(),
            "remarks": many(text),
        },
        {"remarks"},
    )  # fmt: skip
