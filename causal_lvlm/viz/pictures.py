"""All pictures of one explanation, in the order in which report and folder show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from causal_lvlm.attribution.result import Attribution
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.names import amount
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.sentences import question
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.explanation.union import TokenUnion, union_graph
from causal_lvlm.viz import wording
from causal_lvlm.viz.causal_picture import draw_causal_graph
from causal_lvlm.viz.causal_words import graph_sentences, graph_title
from causal_lvlm.viz.graph import draw_graph
from causal_lvlm.viz.overlay import draw_heat, draw_patches
from causal_lvlm.viz.prompt import draw_prompt
from causal_lvlm.viz.style import png_bytes
from causal_lvlm.viz.tree import draw_tree
from causal_lvlm.viz.view import TraceView, member_numbers

__all__ = [
    "Picture",
    "attribution_picture",
    "causal_picture",
    "main_numbers",
    "pictures_of",
    "united_graph",
]


@dataclass(frozen=True)
class Picture:
    """A picture with a name for its file, a text for those who cannot see it, and a caption.

    `drawing` marks lines and text, for which 256 colours are enough.
    """

    name: str
    image: Image.Image
    alt: str
    caption: str
    width: str = "half"
    drawing: bool = False

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file; folder and page share it."""
        return png_bytes(self.image, palette=self.drawing)


def main_set(explanation: Explanation) -> tuple[str, ExplainingSet] | None:
    """Return name and value of the set that numbers graph and tree: the joint one, else the first.

    A set without members (nothing was found) is passed over if another has some.
    """
    sets = explanation.sets
    for name in ("joint", *sets):
        if name in sets and sets[name].units:
            return name, sets[name]
    return next(iter(sets.items()), None)


def main_numbers(explanation: Explanation) -> dict[int, int]:
    """Return the number of each position of the main set's units."""
    chosen = main_set(explanation)
    return member_numbers(chosen[1].units) if chosen else {}


def united_graph(explanation: Explanation) -> TokenUnion | None:
    """Return the graphs of all heads as one; None if there are fewer than two.

    Heads count by how much they look at the candidates, all the same if that is not known (results
    of version 0.1) or nothing in every head.
    """
    graphs = explanation.graphs
    if len(graphs) < 2:
        return None
    masses = [graph.candidate_mass for graph in graphs]
    known = not any(map(math.isnan, masses)) and sum(masses) > 0.0
    return union_graph(graphs, weights="candidate_mass" if known else None)


def pictures_of(
    view: TraceView, explanation: Explanation, causal: CausalGraph | None = None
) -> list[Picture]:
    """Draw everything there is to see of one explanation.

    Parameters
    ----------
    view : TraceView
    explanation : Explanation
    causal : CausalGraph, optional
        Of the same target; drawn before what was learned.

    Returns
    -------
    list of Picture
        Patches of each set that holds any (where there is an image), prompt, PAG of one head, the
        graphs of all heads as one if there are several, PDS-tree.
    """
    target = explanation.target.text
    pictures = []
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for name, item in explanation.sets.items():
        if not any(view.region(unit) for unit in item.units):
            continue
        units = tuple(tuple(unit) for unit in item.units)
        if units in seen:
            continue
        seen.add(units)
        pictures.append(_patches(view, name, explanation))
    if not pictures and view.images:
        pictures.append(
            Picture(
                "patches",
                draw_patches(view, (), title="No patch in any set", show_grid=True),
                f"{view.image_words.capitalize()}; no patch is part of a set.",
                f"{view.image_words.capitalize()} as given; no set holds a patch.",
            )
        )
    numbers = main_numbers(explanation)
    pictures.append(_prompt(view, explanation, numbers))
    graph = explanation.head_graph
    if causal is not None:
        pictures.append(causal_picture(view, causal))
    if graph is not None:
        drawn = _graph_pictures(view, graph, numbers, target)
        # The learned marks may deny what was verified; the causal graph has them reconciled.
        pictures += drawn if causal is None else drawn[1:]
        union = united_graph(explanation)
        if union is not None:
            pictures.insert(-1, _union_picture(view, union, numbers, target))
    return pictures


def causal_picture(view: TraceView, graph: CausalGraph) -> Picture:
    """Draw a verified graph."""
    title = graph_title(graph)
    return Picture(
        "pag",
        draw_causal_graph(graph, trace=view),
        f"{title} of “{graph.target.text}”. {' '.join(graph_sentences(graph))}",
        f"{title}: what was tested on the model is bold, what was only learned is thin.",
        "wide",
        drawing=True,
    )


def _patches(view: TraceView, name: str, explanation: Explanation) -> Picture:
    item, target, shown = explanation.sets[name], explanation.target.text, view.image_words
    inside = [view.label(unit) for unit in item.units if view.region(unit)]
    words = view.names.listed([unit for unit in item.units if not view.region(unit)])
    kind = "verified" if item.verified else "candidate, not verified"
    heading = wording.set_title(name, len(view.images))
    caption = f"the outlined patches belong to the set ({kind}); {question(explanation)}."
    note = f"Also in the set: {' and '.join(words)}." if words else ""
    return Picture(
        f"patches-{name}",
        draw_patches(view, item.units, title=f"{heading} ({kind}) — “{target}”", note=note),
        f"{shown.capitalize()} with the patches {', '.join(inside)} outlined, as row and column.",
        f"{heading}: {caption}",
        "half" if len(view.images) == 1 else "wide",
    )


def _prompt(view: TraceView, explanation: Explanation, numbers: Mapping[int, int]) -> Picture:
    words = view.names.listed([(p,) for p in numbers if not view.region((p,))])
    return Picture(
        "prompt",
        draw_prompt(view, explanation.target, numbers, title="Prompt and answer"),
        f"Prompt and answer; marked of the set: {' and '.join(words) or 'nothing'}.",
        "Prompt and answer as the model saw them; the set's tokens and the target are marked.",
        drawing=True,
    )


def _graph_pictures(
    view: TraceView, graph: HeadGraph, numbers: Mapping[int, int], target: str
) -> list[Picture]:
    where = "" if graph.head is None else f", head {graph.head}"
    neighbours = int((graph.structure.pag.marks[int(graph.target_node)] > 0).sum())
    inside = len(set(graph.tree.node[1:].tolist()))
    return [
        Picture(
            "pag",
            draw_graph(view, graph, numbers, title=f"PAG{where} — “{target}”"),
            f"The learned graph; the target “{target}” has {amount(neighbours, 'neighbour')}.",
            "Partial ancestral graph around the target, learned from attention.",
            "wide",
            drawing=True,
        ),
        Picture(
            "pds-tree",
            draw_tree(view, graph, numbers, title=f"PDS-tree{where} — “{target}”"),
            f"The PDS-tree of the target “{target}” with {inside} different nodes.",
            "Possible-d-sep tree of the target by radius: the candidates the graph proposes.",
            "wide",
            drawing=True,
        ),
    ]


def _union_picture(
    view: TraceView, union: TokenUnion, numbers: Mapping[int, int], target: str
) -> Picture:
    heads = len(union.heads)
    meaning = f"share of the {heads} heads with this edge"
    if len(set(union.union.weights)) > 1:
        meaning += ", each counted by how much it looks at the candidates"
    meaning += "; an end has the mark that most of these heads agree on, else a circle"
    neighbours = int((union.pag.marks[union.target_node] > 0).sum())
    return Picture(
        "pag-union",
        draw_graph(
            view,
            union,
            numbers,
            max_nodes=16,  # it has more edges than one head's graph, each with a number
            title=f"One graph from {heads} heads — “{target}”",
            confidence=union.confidence,
            confidence_label=meaning,
        ),
        f"The graphs of {heads} heads as one; the target “{target}” has "
        f"{amount(neighbours, 'neighbour')} in it.",
        f"The graphs of {heads} heads as one: the thicker a line, the more heads have this edge. "
        "It is a summary; no single head has learned it as a whole.",
        "wide",
        drawing=True,
    )


def attribution_picture(view: TraceView, attribution: Attribution) -> Picture:
    """Draw the heat map of one method."""
    target = attribution.target.text
    where = f"over {view.image_words}" if view.has_patches else "by word"
    rival = attribution.parameters.get("against")
    asked = "" if rival is None else f", against {_rival(rival)}"
    what = "Heat map" if view.has_patches else "Scores"
    return Picture(
        f"heat-{attribution.method}",
        draw_heat(view, attribution.scores, method=attribution.method, target=target),
        f"{what} of {attribution.method} for the target “{target}”{asked} {where}.",
        f"{attribution.method}{asked}: {attribution.model_runs} forward and "
        f"{attribution.backward_passes} backward passes.",
        width="third" if len(view.images) == 1 else "half",
    )


def _rival(against: str | int) -> str:
    """Return the token that a contrast was made with, which may be known by its number alone."""
    return f"“{against.strip()}”" if isinstance(against, str) else f"the token {against}"
