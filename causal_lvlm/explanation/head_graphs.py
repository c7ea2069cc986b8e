"""The graphs of single heads of one layer, to be looked at beside the graph that was searched.

The default search learns one graph over all layers and heads. What each head of a layer says is
learned here in the published way: a graph from its attention alone. No set is searched in them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.explanation.graphs import HeadGraph, learn_graphs
from causal_lvlm.fields import many, maybe, reading, record, settings, table, text
from causal_lvlm.protocols import TraceLike
from causal_lvlm.storage import read_json, to_jsonable, versions, write_json
from causal_lvlm.summary import MAX_POSITIONS, target_check
from causal_lvlm.tokens import Target, TargetLike, resolve_target

__all__ = ["HeadGraphs", "head_graphs"]

KIND = "head-graphs"
# CI tests for each graph; one that needs more ends early and says so. Dense heads have
# exponentially many conditioning sets, and nothing is searched in these graphs.
MAX_TESTS = 200_000


@dataclass(frozen=True, eq=False)
class HeadGraphs:
    """One graph per head of one layer.

    Attributes
    ----------
    target : Target
    graphs : tuple of HeadGraph
        Heads in which the target's row is degenerate have none.
    parameters : dict
    model_id, revision : str or None
    versions : dict
    """

    target: Target
    graphs: tuple[HeadGraph, ...]
    parameters: Mapping[str, Any]
    model_id: str | None = None
    revision: str | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values."""
        plain: dict[str, Any] = to_jsonable(
            {
                "kind": KIND,
                "target": asdict(self.target),
                "graphs": [graph.to_dict() for graph in self.graphs],
                "parameters": dict(self.parameters),
                "model_id": self.model_id,
                "revision": self.revision,
                "versions": dict(self.versions),
            }
        )
        return plain

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the graphs as JSON and return the path; raises `OutputError` if it cannot."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadGraphs:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If the file cannot be read or holds no such graphs.
        """
        value = read_json(path, KIND)
        with reading(path, "graphs of heads"):
            return cls(**_SAVED(value, ""))


_SAVED = record(
    {
        "target": target_check(),
        "graphs": many(HeadGraph.check(MAX_POSITIONS)),
        "parameters": settings(),
        "model_id": maybe(text),
        "revision": maybe(text),
        "versions": table(text),
    }
)


def head_graphs(
    trace: TraceLike,
    target: TargetLike,
    *,
    layer: int = -1,
    max_radius: int = 3,
    max_tests: int | None = MAX_TESTS,
    n_jobs: int | None = None,
    **options: Any,
) -> HeadGraphs:
    """Learn the graph of every head of one layer from its attention (Rohekar et al. 2023).

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
    layer : int
    max_radius : int
        Depth of the PDS-trees.
    max_tests : int or None
        For each graph; one that ended early says ``complete=False``.
    n_jobs : int, optional
        Threads.
    **options
        Passed to `attention_correlations`: ``sink``, ``pool``, ``threshold``, ...

    Returns
    -------
    HeadGraphs

    Raises
    ------
    AttentionError
        If there is no such layer.
    """
    chosen = resolve_target(trace.layout, target)
    correlations = attention_correlations(trace, chosen, layer=layer, **options)
    usable = [c for c in correlations if isinstance(c, TokenCorrelation)]
    graphs = learn_graphs(
        correlations, trace.layout, chosen.text, max_radius=max_radius, alpha=None,
        algorithm="ordered_icd", variant="stable", max_conditioning_size=None,
        max_tests=max_tests, n_jobs=n_jobs,
    )  # fmt: skip
    return HeadGraphs(
        target=chosen,
        graphs=graphs,
        parameters={
            "source": "attention",
            "layer": usable[0].layer if usable else layer,
            "threshold": usable[0].threshold if usable else None,
            "max_tests": max_tests,
            **to_jsonable(options),
        },
        model_id=trace.model_id,
        revision=trace.revision,
    )
