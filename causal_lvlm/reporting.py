"""`report`: what a page still lacks is found out first; then it is written from results alone.

1. With ``metrics=True`` the methods are measured: the model is asked with tokens masked.
2. With ``heads=True`` a graph of every head of the last layer is learned.
3. `causal_lvlm.viz.report` writes the page, which asks nothing any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from causal_lvlm.attribution.result import Attribution
from causal_lvlm.errors import DetachedTraceError
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.head_graphs import HeadGraphs, head_graphs
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.methods.faithfulness import measure_faithfulness
from causal_lvlm.metrics.result import MetricTable
from causal_lvlm.protocols import TraceLike
from causal_lvlm.viz.case import Case
from causal_lvlm.viz.report import report_cases

__all__ = ["report"]

Result = TypeVar("Result", MetricTable, TargetStability, HeadGraphs)


def report(
    trace_or_summary: TraceLike | Mapping[str, Any],
    explanations: Iterable[Explanation | CausalGraph],
    path: str | os.PathLike[str],
    *,
    attributions: Iterable[Attribution] = (),
    metrics: MetricTable | Iterable[MetricTable] | bool = (),
    stability: TargetStability | Iterable[TargetStability] = (),
    heads: HeadGraphs | Iterable[HeadGraphs] | bool = (),
) -> Path:
    """Write one self-contained, interactive HTML page about one run.

    Parameters
    ----------
    trace_or_summary : Trace or mapping
        A live or loaded trace, or ``explanation.summary``.
    explanations : iterable of Explanation or CausalGraph
        A graph of an explained target is shown with the explanation, before what was learned.
    path : path_like
        The file to write.
    attributions : iterable of Attribution
    metrics : MetricTable, iterable of MetricTable, or True
        Numbers that stand below the methods they belong to. True measures them now, which runs the
        model (`causal_lvlm.methods.measure_faithfulness`).
    stability : TargetStability or iterable of TargetStability
        Edges of the same target are then as thick as they are stable
        (`causal_lvlm.explanation.trust.explanation_stability`).
    heads : HeadGraphs, iterable of HeadGraphs, or True
        Graphs of single heads beside those that were searched. True learns those of the last layer
        (`causal_lvlm.explanation.head_graphs.head_graphs`).

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OutputError
        If the file cannot be written, or the summary lacks a part.
    DetachedTraceError
        If something is to be measured or learned, and the trace has no model.
    """
    given, maps = list(explanations), list(attributions)
    found = [result for result in given if not isinstance(result, CausalGraph)]
    graphs = [result for result in given if isinstance(result, CausalGraph)]
    if metrics is True:
        trace = _live(trace_or_summary)
        metrics = [measure_faithfulness(trace, e, maps) for e in found]
    if heads is True:
        trace = _live(trace_or_summary)
        heads = [head_graphs(trace, e.target) for e in found]
    case = Case(
        trace_or_summary,
        found,
        maps,
        metrics=_several(metrics),
        stability=_several(stability),
        heads=_several(heads),
        graphs=graphs,
    )
    return report_cases([case], path)


def _live(trace: TraceLike | Mapping[str, Any]) -> TraceLike:
    if isinstance(trace, Mapping):
        raise DetachedTraceError("a summary has no model to measure with; give the trace itself")
    return trace


def _several(given: Result | Iterable[Result] | bool) -> Sequence[Result]:
    """Return what was given, one result or several, as a list; False is none."""
    if isinstance(given, MetricTable | TargetStability | HeadGraphs):
        return [given]
    return [] if isinstance(given, bool) else list(given)
