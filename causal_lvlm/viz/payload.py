"""Everything the interactive page shows about one run, as plain data for its script.

1. The run: sizes of the images (they stand in the static part of the page), tokens, what each
   position is, where every cell lies.
2. Per explanation: the sentence, the sets with their numbers, the graphs
   (`causal_lvlm.viz.payload_graphs`), and what the model said under the masks that were tried.
3. Per attribution: its scores and, where they were measured, its faithfulness numbers.

Numbers are cut to a few digits. All texts are data: the page writes them as text, never as HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib import colormaps

from causal_lvlm.attribution.result import Attribution
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.head_graphs import HeadGraphs
from causal_lvlm.explanation.names import visible
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.sentences import how
from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.explanation.wording import outcome, random_controls, said
from causal_lvlm.metrics.masked_top import SCOPES, ranked
from causal_lvlm.metrics.result import MetricTable
from causal_lvlm.storage import to_jsonable
from causal_lvlm.viz import wording
from causal_lvlm.viz.payload_causal import causal_payload
from causal_lvlm.viz.payload_graph import short
from causal_lvlm.viz.payload_graphs import extra_graphs, graphs_payload
from causal_lvlm.viz.payload_metrics import asked, measures, metric_note, metrics_of
from causal_lvlm.viz.pictures import main_numbers, main_set, united_graph
from causal_lvlm.viz.style import SMALL
from causal_lvlm.viz.view import TraceView

__all__ = ["case_payload", "colour_tables", "json_for_html"]

_TRIED = 400  # masks whose answers are sent
_TOP = 64  # largest budget at which methods are compared
Units: TypeAlias = list[tuple[int, ...]]
Tried: TypeAlias = tuple[Units, float | None, tuple[str, ...], bool]
_KINDS = {"image": "i", "prompt": "p", "generated": "g", "special": "s"}


def json_for_html(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in, nor break a line of script."""
    text = json.dumps(to_jsonable(value), ensure_ascii=False, separators=(",", ":"))
    for character, escaped in (
        ("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"),
        ("\u2028", "\\u2028"), ("\u2029", "\\u2029"),
    ):  # fmt: skip
        text = text.replace(character, escaped)
    return text


def colour_tables(steps: int = 32) -> dict[str, list[list[int]]]:
    """Return the colour maps of the heat maps as RGB values, the same as in the pictures."""
    at = np.linspace(0.0, 1.0, steps)
    return {
        name: np.rint(colormaps[name](at)[:, :3] * 255).astype(int).tolist()
        for name in ("cividis", "PuOr")
    }


def case_payload(
    view: TraceView,
    explanations: Sequence[Explanation],
    attributions: Sequence[Attribution],
    *,
    key: str,
    name: str = "",
    note: str = "",
    metrics: Sequence[MetricTable] = (),
    stability: Sequence[TargetStability] = (),
    heads: Sequence[HeadGraphs] = (),
    causal: Sequence[CausalGraph] = (),
) -> dict[str, Any]:
    """Return one run with what was found about it.

    Parameters
    ----------
    view : TraceView
    explanations, attributions : sequence
    key : str
        Name of the run inside the page.
    name, note : str
    metrics : sequence of MetricTable
    stability : sequence of TargetStability
    heads : sequence of HeadGraphs
    causal : sequence of CausalGraph
        One for each target at most.

    Returns
    -------
    dict
        Plain data; `json_for_html` writes it.
    """
    layout = view.layout
    cells = [
        [int(p), grid.image, *(round(float(v), 2) for v in box)]
        for grid in view.layout.grids
        for p, box in zip(grid.positions, grid.boxes, strict=True)
    ]
    return {
        "key": key,
        "name": name,
        "note": note,
        "images": [
            {"width": image.width, "height": image.height, "pixels": max(image.size) < SMALL}
            for image in view.images
        ],
        "tokens": [
            "" if kind == "image" else token if token.strip() else visible(token)
            for token, kind in zip(layout.tokens, layout.modality, strict=True)
        ],
        "spaced": [token[:1].isspace() for token in layout.tokens],
        "kinds": "".join(_KINDS[str(kind)] for kind in layout.modality),
        "labels": [view.label((p,)) for p in range(len(layout))],
        "words": layout.words.tolist(),
        "nPrompt": layout.n_prompt,
        "probs": [short(p, 3) for p in np.exp(view.run.log_probs).tolist()],
        "cells": cells,
        "explanations": [_explanation(view, e, metrics, stability, heads) for e in explanations],
        "attributions": [_attribution(view, a, metrics) for a in attributions],
        "causal": [causal_payload(view, graph) for graph in causal],
    }


def _explanation(
    view: TraceView,
    explanation: Explanation,
    metrics: Sequence[MetricTable],
    stability: Sequence[TargetStability],
    heads: Sequence[HeadGraphs],
) -> dict[str, Any]:
    target = explanation.target
    names = [n for n in explanation.sets if view.images or n != "image"]
    chosen = main_set(explanation)
    stable = next((s for s in stability if _same_node(s, explanation)), None)
    tried = _tried(explanation)
    before = _before(explanation, tried)
    sets = [_set(view, n, explanation) for n in names]
    own = [table for table in metrics if measures(table, explanation)]
    units = _units(view, explanation, tried)
    number = {unit: at for at, unit in enumerate(units)}
    numbers = main_numbers(explanation)
    graphs = graphs_payload(explanation, united_graph(explanation), numbers, stable)
    united = len(graphs) > len(explanation.graphs)
    more = [h for h in heads if tuple(h.target.positions) == tuple(target.positions)]
    if more and len(explanation.graphs) <= 1:  # else its own are of heads
        graphs += extra_graphs(more[0], numbers)
    return {
        "positions": list(target.positions),
        "text": target.text,
        "sentence": explanation.sentence(),
        "mode": explanation.mode,
        "how": how(explanation),
        "masking": explanation.masking,
        "runs": explanation.model_runs,
        "sets": sets,
        "main": names.index(chosen[0]) if chosen and chosen[0] in names else 0,
        "graphs": graphs,
        "graphNote": wording.graph_outcome(explanation.graph_outcome),
        "graphShown": _first_graph(explanation, united),
        "stable": stable is not None,
        "stableRuns": None if stable is None else stable.edges.n_runs,
        "units": [list(unit) for unit in units],
        "tried": [
            [[number[u] for u in masked], short(p), said(words), bool(changed)]
            for masked, p, words, changed in tried
            if masked and all(u in number for u in masked)
        ],
        "before": before,
        "asked": asked(own, explanation),
        "metricNote": metric_note(own),
        "metrics": metrics_of(own, "causal", target),
    }


def _same_node(stability: TargetStability, explanation: Explanation) -> bool:
    """Whether it is of the same target, learned with the same nodes."""
    target = stability.target
    if target is not None and tuple(target.positions) != tuple(explanation.target.positions):
        return False
    node = tuple(stability.members[stability.target_node])
    return any(tuple(g.members[g.target_node]) == node for g in explanation.graphs)


def _first_graph(explanation: Explanation, united: bool) -> int:
    """Return the index of the graph that is shown first: the one that held the main set."""
    for at, graph in enumerate(explanation.graphs):
        if graph is explanation.head_graph:
            return at + united
    return 0


def _set(view: TraceView, name: str, explanation: Explanation) -> dict[str, Any]:
    item = explanation.sets[name]
    return {
        "name": name,
        "title": wording.set_title(name, len(view.images)),
        "units": [list(unit) for unit in item.units],
        "labels": [view.label(unit) for unit in item.units],
        "verified": bool(item.verified),
        "outcome": outcome(item, explanation.mode, explanation.tester),
        "badges": wording.badges_of(item, explanation.mode, explanation.tester),
        "before": short(item.probability_before),
        "after": short(item.probability_after),
        "said": said(item.predicted_after) if item.predicted_after else "",
        "changed": bool(item.predicted_after) and _other_words(explanation, item.predicted_after),
        "random": random_controls(item, explanation.mode, explanation.tester),
        "head": item.head,
        "radius": item.radius,
        "runs": item.model_runs,
        "others": [list(a) for a in item.alternatives],
    }


def _other_words(explanation: Explanation, words: Sequence[str]) -> bool:
    """Whether the model's first choice is not what it had said, token by token.

    Testers other than flip count more, or less, as a change: a page that says what the model says
    must not call that a change of the answer.
    """
    tokens = explanation.layout.tokens
    target = [tokens[p].strip() for p in explanation.target.positions]
    return [word.strip() for word in words] != target


def _tried(explanation: Explanation) -> list[Tried]:
    """Return the masks that were tried: units, probability, first choice, whether it changed.

    Explanations that did not keep them still know what verified their sets.
    """
    found: list[Tried] = []
    seen: set[frozenset[tuple[int, ...]]] = set()
    flip = explanation.tester == "flip"  # which knows the tokens, not only their texts

    def add(
        units: Iterable[Iterable[int]], p: float | None, words: Sequence[str], changed: bool
    ) -> None:
        masked = [tuple(int(p) for p in unit) for unit in units]
        if frozenset(masked) not in seen and len(found) < _TRIED:
            seen.add(frozenset(masked))
            new = changed if flip else _other_words(explanation, words)
            found.append((masked, p, tuple(words), new))

    if explanation.mode == "necessary":
        for item in explanation.sets.values():
            if item.verified and item.predicted_after:
                add(item.units, item.probability_after, item.predicted_after, True)
    for entry in explanation.tried:
        add(entry.units, entry.probability, entry.first_choice, entry.changed)
    return found


def _before(explanation: Explanation, tried: Sequence[Tried]) -> float | None:
    """Return the probability of the target with nothing masked, None if nobody asked."""
    known = [s.probability_before for s in explanation.sets.values()]
    known += [p for masked, p, *_ in tried if not masked]
    return next((short(p) for p in known if p is not None), None)


def _units(view: TraceView, explanation: Explanation, tried: Sequence[Tried]) -> Units:
    """Return what can be masked as one: as far as the explanation says, else single positions."""
    layout, start = view.layout, explanation.target.start
    excluded = {p for p, _ in explanation.excluded} | {start - 1}
    known = [u for masked, *_ in tried for u in masked]
    known += [tuple(u) for s in explanation.sets.values() for u in s.units]
    known += [
        tuple(m)
        for graph in explanation.graphs
        for node, m in enumerate(graph.members)
        if node != graph.target_node
    ]
    known += [(p,) for p in range(start) if layout.modality[p] != "special"]
    taken: set[int] = set()
    units = []
    for unit in known:
        if not taken.intersection(unit) and not excluded.intersection(unit):
            taken.update(unit)
            units.append(unit)
    return sorted(units)


def _attribution(
    view: TraceView, attribution: Attribution, metrics: Sequence[MetricTable]
) -> dict[str, Any]:
    scores = np.asarray(attribution.scores, dtype=np.float64)
    return {
        "method": attribution.method,
        "positions": list(attribution.target.positions),
        "text": attribution.target.text,
        "scores": [short(float(v), 3) for v in scores],
        # By scores with all their digits, so that these are the tokens that were masked.
        "top": {scope: ranked(view.layout, attribution, scope)[:_TOP] for scope in SCOPES},
        "runs": attribution.model_runs,
        "backward": attribution.backward_passes,
        "notes": list(attribution.notes),
        "metrics": metrics_of(metrics, attribution.method, attribution.target),
    }
