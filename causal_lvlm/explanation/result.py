"""What an explanation is: sets of tokens, how they were verified, all that is needed to repeat it.

`Explanation` holds one set for each scope (joint, image, text) with the graphs they came from, and
saves to one JSON file that embeds image, tokens and answer.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.explanation.card import explanation_card
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.graphs import EVIDENCE, HeadGraph
from causal_lvlm.explanation.sentences import sentence
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.explanation.tried import TriedSet
from causal_lvlm.fields import (
    damaged,
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
from causal_lvlm.npz import read_beside
from causal_lvlm.record import TraceRecord
from causal_lvlm.storage import read_json, write_bytes, write_json
from causal_lvlm.summary import check_summary, layout_of, target_check
from causal_lvlm.tokens import Target, TokenLayout

__all__ = ["Explanation"]

# Pairs without an edge whose separating sets still fit into a readable JSON file.
MAX_PAIRS_IN_JSON = 50_000
FORMAT = 1


@dataclass(frozen=True)
class Explanation:
    """Why the model said the target: minimal explaining sets and the graphs behind them.

    Attributes
    ----------
    target : Target
    sets : dict of str to ExplainingSet
        ``joint``, ``image`` and ``text`` by default; one entry where `candidates` restricted them.
    mode : {"necessary", "sufficient"}
    tester : {"flip", "drop", "contrast"}
    masking, backend : str
        The intervention, and how it was computed.
    graph_outcome : str
        ``candidates`` (some PDS-tree holds candidates), ``isolated`` (the target has no neighbour
        in any graph), ``target_dropped`` (its row was degenerate in every head),
        ``first_position`` (nothing stands before it).
    graphs : tuple of HeadGraph
    dropped_heads : tuple of str
        Why heads have no graph.
    excluded : tuple of (int, str)
        Every position before the target that no set can hold, and why: the frame, and the row
        that predicts the target (which may be a word of interest).
    model_runs : int
        Masked rows evaluated in all, the unmasked one and random controls included.
    parameters : dict
    summary : dict
        What the trace was: image, tokens, answer, model (see ``Trace.to_dict``).
    versions : dict
    model_id, revision : str or None
    seed : int
    seconds : float
    tried : tuple of TriedSet
        What the model said under the masks that the search tried, the smallest masks first.
    layer_remark : str or None
        What is remarked on the layer whose attention was the source.
    passes : (int, int)
        Forward and backward, for attention and gradients beside `model_runs`; not in files.
    graph_source : CausalGraph or callable, optional
        What `graph` returns, or what makes it of the explanation when it is first asked for.
    """

    target: Target
    sets: Mapping[str, ExplainingSet]
    mode: str
    tester: str
    masking: str
    backend: str
    graph_outcome: str
    graphs: tuple[HeadGraph, ...]
    dropped_heads: tuple[str, ...]
    excluded: tuple[tuple[int, str], ...]
    model_runs: int
    parameters: Mapping[str, Any]
    summary: Mapping[str, Any]
    versions: Mapping[str, str]
    model_id: str
    revision: str | None
    seed: int
    seconds: float
    against: str | None = None
    tried: tuple[TriedSet, ...] = ()
    layer_remark: str | None = None
    passes: tuple[int, int] = field(default=(0, 0), compare=False)
    graph_source: CausalGraph | Callable[[Explanation], CausalGraph] | None = field(
        default=None, compare=False, repr=False
    )

    @cached_property
    def graph(self) -> CausalGraph | None:
        """The causal graph, in which nothing denies what was verified; None in older files.

        With ``explain(..., graph=True)`` its edges were tested on the model, too; otherwise it
        holds the learned graph, and the same graph reconciled with the sets, at no model run.
        """
        made = self.graph_source
        return made(self) if callable(made) else made

    @property
    def saved_parameters(self) -> dict[str, Any]:
        """Parameters as files have them: with the remark on the layer, if there is one."""
        remark = {} if self.layer_remark is None else {"layer_remark": self.layer_remark}
        return {**self.parameters, **remark}

    @cached_property
    def layout(self) -> TokenLayout:
        """What stood at each position of the run, as far as its summary says."""
        return layout_of(self.summary, "trace", whole_run=False)

    @property
    def main(self) -> ExplainingSet:
        """The joint set, or the only one where `candidates` restricted the scope."""
        return self.sets["joint"] if "joint" in self.sets else next(iter(self.sets.values()))

    @property
    def joint(self) -> ExplainingSet | None:
        """Smallest set over image and text together."""
        return self.sets.get("joint")

    @property
    def image(self) -> ExplainingSet | None:
        """Smallest set of image units alone."""
        return self.sets.get("image")

    @property
    def text(self) -> ExplainingSet | None:
        """Smallest set of words alone."""
        return self.sets.get("text")

    @property
    def positions(self) -> tuple[int, ...]:
        """Sequence positions of the main set."""
        return self.main.positions

    @property
    def verified(self) -> bool:
        """Whether the model confirmed the main set."""
        return self.main.verified

    @property
    def minimality(self) -> str:
        """What is proven about the main set."""
        return self.main.minimality

    @property
    def outcome(self) -> str:
        """Outcome of the main set."""
        return self.main.outcome

    @property
    def found_by(self) -> str | None:
        """Whether a graph held the main set."""
        return self.main.found_by

    @property
    def head_graph(self) -> HeadGraph | None:
        """The learned graph that held the main set; else the first whose target has neighbours."""
        if not self.graphs:
            return None
        if self.main.found_by == "graph":
            for graph in self.graphs:
                if graph.head == self.main.head:
                    return graph
        return next((g for g in self.graphs if not g.isolated), self.graphs[0])

    def sentence(self) -> str:
        """Say in plain words what was found, and how sure it is."""
        remark = self.summary.get("parameters", {}).get("geometry_remark")
        return sentence(self) + (f" Note: {remark}." if remark else "")

    def _repr_html_(self) -> str:
        """Show the explanation in a notebook."""
        run = TraceRecord.from_dict(self.summary, "trace")
        return explanation_card(self, run, self.sentence())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data; `load` reads it back."""
        return {
            "kind": "explanation",
            "format": FORMAT,
            "target": asdict(self.target),
            "sentence": self.sentence(),
            "sets": {name: asdict(s) for name, s in self.sets.items()},
            "mode": self.mode, "tester": self.tester, "against": self.against,
            "masking": self.masking, "backend": self.backend, "graph_outcome": self.graph_outcome,
            "dropped_heads": list(self.dropped_heads),
            "excluded": [list(e) for e in self.excluded],
            "model_runs": self.model_runs, "seconds": self.seconds, "seed": self.seed,
            "model_id": self.model_id, "revision": self.revision,
            "parameters": self.saved_parameters,
            "versions": dict(self.versions),
            "graphs": [g.to_dict() for g in self.graphs],
            "graph": None if self.graph is None else self.graph.to_dict(),
            "tried": [asdict(t) for t in self.tried],
            "trace": dict(self.summary),
        }  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the explanation as JSON; raises `OutputError` if it cannot.

        It embeds image, tokens and answer. The separating sets of large graphs go to a ``.npz`` of
        the same name beside it.

        Parameters
        ----------
        path : str or path-like
            Of the JSON file.
        """
        target, value = Path(path), self.to_dict()
        if sum(len(g.structure.separator_start) - 1 for g in self.graphs) > MAX_PAIRS_IN_JSON:
            arrays = target.with_suffix(".npz")
            stream = io.BytesIO()
            evidence = {
                f"{k}/{n}": v for k, g in enumerate(self.graphs) for n, v in g.evidence().items()
            }
            np.savez_compressed(stream, **evidence)  # type: ignore[arg-type]
            write_bytes(arrays, stream.getvalue())
            value["arrays"] = arrays.name
            value["graphs"] = [
                {k: v for k, v in graph.items() if k not in EVIDENCE} for graph in value["graphs"]
            ]
        return write_json(target, value)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read what `save` wrote; raises `OutputError` if it is missing, damaged or another thing.

        Parameters
        ----------
        path : str or path-like
            A file that `save` wrote.
        """
        value = read_json(path, "explanation", format=FORMAT)
        with reading(path, "explanation"):
            if "arrays" in value:
                _add_arrays(value, Path(path))
            return cls.from_dict(value)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Explanation:
        """Invert `to_dict`.

        Parameters
        ----------
        value : dict
            What `to_dict` returned.

        Raises
        ------
        OutputError
            If a field is missing, or is not what it must be.
        """
        layout = check_summary(value.get("trace"), "trace", whole_run=False)
        n = len(layout)
        fields = record(
            {
                "target": target_check(layout),
                "sets": table(ExplainingSet.check(n), least=1),
                "mode": text, "tester": text, "against": maybe(text),
                "masking": text, "backend": text, "graph_outcome": text,
                "graphs": many(HeadGraph.check(n)),
                "dropped_heads": many(text), "excluded": many(rows(whole(0, n - 1), text)),
                "parameters": settings(layer_remark=maybe(text)),
                "model_runs": whole(0), "versions": table(text),
                "model_id": text, "revision": maybe(text),
                "seed": whole(None, None), "seconds": number(0.0),
                "tried": many(TriedSet.check(n)), "graph": maybe(CausalGraph.check(n)),
            },
            {"tried", "graph"},
        )(value, "")  # fmt: skip
        for name, one in fields["sets"].items():
            if one.scope != name:
                raise damaged(f"sets.{name}", f"is of the scope {one.scope!r}")
        remark = fields["parameters"].pop("layer_remark", None)
        graph = fields.pop("graph", None)
        return cls(summary=value["trace"], layer_remark=remark, graph_source=graph, **fields)


def _add_arrays(value: dict[str, Any], path: Path) -> None:
    """Put the evidence that lies in a file beside the explanation where it belongs."""
    stored = read_beside(path, value)
    graphs = many(lambda graph, where: graph)(value.get("graphs"), "graphs")
    for k, graph in enumerate(graphs):
        if isinstance(graph, dict):
            graph |= {n: stored[f"{k}/{n}"] for n in EVIDENCE if f"{k}/{n}" in stored}
