"""One run of the model with what was found about it: what page and folder are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from causal_lvlm.attribution.result import Attribution
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.head_graphs import HeadGraphs
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.metrics.result import MetricTable
from causal_lvlm.protocols import Recorded
from causal_lvlm.viz.pictures import Picture, attribution_picture, pictures_of
from causal_lvlm.viz.view import TraceView

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """One run of the model with what was found about it.

    Attributes
    ----------
    trace : Trace or mapping
        A trace, or the summary of one.
    explanations, attributions : sequence
    name, note : str
        Heading and remark, where several cases share a page.
    metrics : sequence of MetricTable
    stability : sequence of TargetStability
    heads : sequence of HeadGraphs
        Graphs of single heads, to be looked at beside those that were searched.
    graphs : sequence of CausalGraph
        They stand before the graphs that explanations of the same targets carry.
    """

    trace: Recorded | Mapping[str, Any]
    explanations: Sequence[Explanation]
    attributions: Sequence[Attribution] = ()
    name: str = ""
    note: str = ""
    metrics: Sequence[MetricTable] = ()
    stability: Sequence[TargetStability] = ()
    heads: Sequence[HeadGraphs] = ()
    graphs: Sequence[CausalGraph] = ()
    drawn: dict[int, list[Picture]] = field(default_factory=dict, compare=False, repr=False)

    def pictures(self, view: TraceView, explanation: Explanation) -> list[Picture]:
        """Return an explanation's pictures; they are drawn once, for page and folder alike."""
        if id(explanation) not in self.drawn:
            graph = self.causal_graph(explanation)
            self.drawn[id(explanation)] = pictures_of(view, explanation, graph)
        return self.drawn[id(explanation)]

    def causal_graph(self, explanation: Explanation) -> CausalGraph | None:
        """Return the causal graph of an explanation's target: one that was given, or its own."""
        target = tuple(explanation.target.positions)
        given = (g for g in self.graphs if tuple(g.target.positions) == target)
        return next(given, None) or explanation.graph

    def causal_graphs(self) -> list[CausalGraph]:
        """Return the causal graphs of the page, one for each target."""
        own = [self.causal_graph(explanation) for explanation in self.explanations]
        found = [*self.graphs, *(graph for graph in own if graph is not None)]
        return list({tuple(g.target.positions): g for g in reversed(found)}.values())[::-1]

    def alone(self) -> list[CausalGraph]:
        """Return the causal graphs of targets that no explanation is about."""
        explained = {tuple(e.target.positions) for e in self.explanations}
        return [g for g in self.causal_graphs() if tuple(g.target.positions) not in explained]

    def heat(self, view: TraceView, attribution: Attribution) -> Picture:
        """Return an attribution's picture; drawn once."""
        if id(attribution) not in self.drawn:
            self.drawn[id(attribution)] = [attribution_picture(view, attribution)]
        return self.drawn[id(attribution)][0]
