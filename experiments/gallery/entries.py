"""The entries of the gallery: each asks the model and returns its numbers and its pictures.

An entry takes the `Kit` and returns ``(numbers, pictures)``: numbers are plain data, all that the
page says about the entry; pictures are functions that draw, by the name of their file, so that the
numbers can be measured again without drawing.

What is shown is fixed before anything is measured: the bundled picture of a kind, its own question,
the first word of a short answer or the last of a caption. Only `loses` looks at results, by a rule.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import causal_lvlm as cl
from causal_lvlm.explanation.compare import graph_difference
from causal_lvlm.items_file import read_config, read_lines
from causal_lvlm.metrics import Case, metric_info
from causal_lvlm.structure import PAG
from causal_lvlm.tiny import Sample, sample_inputs
from causal_lvlm.tiny.scenes import draw_scene
from causal_lvlm.viz import (
    draw_difference,
    draw_explanation_figure,
    draw_patches,
    draw_prompt,
    draw_tree,
    view_of,
)
from causal_lvlm.viz.view import member_numbers
from experiments.common.pairs import pair_of, plan_items
from experiments.gallery import pictures

LEADERBOARD = Path(__file__).resolve().parents[1] / "leaderboard" / "results" / "results.jsonl"
# Cheap ones first. What each does is said by `causal-lvlm methods`.
METHODS = (
    "attention", "rollout", "relevancy", "integrated_gradients", "leave_one_out", "rise",
)  # fmt: skip
METRICS = ("comprehensiveness", "sufficiency", "deletion", "insertion")
RULE = "deletion"  # by which the entry `loses` is chosen
FLOOR = "random"  # no method
CAUSAL: dict[str, Any] = {"max_runs": 100}  # as on the leaderboard
NODES, RINGS = 14, 2  # of a graph and of a tree that a page this narrow can show
SECOND = "what color is the cup?"  # the other question about the picture `colour`

Pictures = dict[str, Callable[[], Image.Image]]
Entry = tuple[dict[str, Any], Pictures]


@dataclass(frozen=True)
class Kit:
    """What every entry needs."""

    model: Any
    seed: int = 0

    def sample(self, name: str) -> Sample:
        return next(s for s in sample_inputs() if s.name == name)

    def run(self, name: str, question: str | None = None) -> tuple[str, Any]:
        """Ask about a bundled picture, its own question by default; return question and trace."""
        sample = self.sample(name)
        asked = question or sample.prompt
        return asked, self.model.run(sample.image_path, asked)


# -- what the entries share -----------------------------------------------------------------------


def ask(trace: Any, target: Any, masked: Sequence[int]) -> dict[str, Any]:
    """Run the model with some positions masked; return what it says and how sure it was."""
    keep = np.ones((1, len(trace.layout)), dtype=np.bool_)
    keep[0, list(masked)] = False
    found = trace.evaluate(keep, target)
    return {
        "says": " ".join(trace.token_text(t).strip() for t in found.argmax[0]),
        "p": float(np.exp(found.log_prob[0])),
    }


def names_of(view: Any, units: Sequence[Sequence[int]]) -> list[str]:
    """Return what units are called: words in quotes, patches as [row,column]."""
    return [view.label(unit) for unit in units]


def sets_of(view: Any, explanation: Any) -> dict[str, Any]:
    """Return the sets of an explanation as plain data."""
    found = {}
    for scope, item in explanation.sets.items():
        controls = item.random_flip_rate
        found[scope] = {
            "outcome": item.outcome, "set": names_of(view, item.units),
            "positions": list(item.positions), "verified": item.verified,
            "minimality": item.minimality, "before": item.probability_before,
            "after": item.probability_after, "runs": item.model_runs,
            "says": " ".join(t.strip() for t in item.predicted_after),
            "controls": [0 if controls is None else round(controls * item.n_random),
                         item.n_random],
        }  # fmt: skip
    return found


def explained(question: str, trace: Any, explanation: Any) -> dict[str, Any]:
    """Return an explanation as plain data."""
    return {
        "question": question, "answer": trace.answer, "target": explanation.target.text,
        "sentence": explanation.sentence(), "runs": explanation.model_runs,
        "sets": sets_of(view_of(trace), explanation),
    }  # fmt: skip


def equal_budget(
    case: Case, attributions: Sequence[Any], size: int
) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """Mask the first `size` units of every ranking; return what the model says, and the units."""
    view = view_of(case.trace)
    image = case.trace.layout.positions("image")
    rows, units = [], []
    for found in attributions:
        scores = found.unit_scores(case.units)
        total, order = np.abs(scores).sum(), case.order(scores)[:size]
        members = [case.units.members[unit] for unit in order]
        answer = ask(case.trace, case.target, [p for unit in members for p in unit])
        rows.append({
            "method": found.method, "top": names_of(view, members), **answer,
            "changed": answer["says"] != case.target.text,
            "runs": found.model_runs, "backward": found.backward_passes,
            "on_image": float(np.abs(found.scores[image]).sum() / total) if total else 0.0,
        })  # fmt: skip
        units.append(tuple(p for unit in members for p in unit))
    return rows, units


def figure_of(explanation: Any, **options: Any) -> Image.Image:
    """Return the figure of an explanation as a picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = draw_explanation_figure(explanation, Path(folder) / "figure.png", **options)
        with Image.open(path) as drawn:
            return drawn.convert("RGB")


# -- the entries ----------------------------------------------------------------------------------


def colour(kit: Kit) -> Entry:
    """A colour question: what the answer rests on, whole, in the image, and in the text."""
    question, trace = kit.run("colour")
    found = cl.explain(trace, trace.answer, seed=kit.seed)
    view = view_of(trace)
    image, text = found.sets["image"], found.sets["text"]

    def draw() -> Image.Image:
        return pictures.stacked(
            draw_prompt(
                view, found.target, member_numbers(text.units),
                title="In the text: smallest verified set",
            ),
            draw_patches(view, image.units, title="In the image: smallest verified set"),
        )  # fmt: skip

    return explained(question, trace, found), {"colour": draw}


def hallucination(kit: Kit) -> Entry:
    """The planted hallucination: a spoon that is not in the picture."""
    sample, (question, trace) = kit.sample("hallucination"), kit.run("hallucination")
    found = cl.explain(trace, "spoon", seed=kit.seed)
    case = Case(trace, found.target, seed=kit.seed)
    scored = [
        cl.attribute(trace, found.target, name, units=case.units, seed=kit.seed) for name in METHODS
    ]
    rows, units = equal_budget(case, scored, len(found.main.units))
    asked, direct = kit.run("hallucination", "is there a spoon?")
    numbers = {
        **explained(question, trace, found), "true": sample.answer, "asked": asked,
        "denied": direct.answer, "size": len(found.main.units), "methods": rows,
        "whole_image": ask(trace, found.target, trace.layout.positions("image")),
        "shown": NODES, "written": [int(p) >= trace.layout.n_prompt for p in found.positions],
    }  # fmt: skip

    def maps() -> Image.Image:
        shown = [k for k, row in enumerate(rows) if row["method"] in METHODS[:3]]
        return pictures.maps(
            trace, [scored[k] for k in shown], [rows[k] for k in shown],
            [units[k] for k in shown], numbers["sets"]["joint"]["before"], columns=3,
        )  # fmt: skip

    return numbers, {
        "hallucination": partial(figure_of, found, max_nodes=NODES), "hallucination-maps": maps
    }  # fmt: skip


def several(kit: Kit) -> Entry:
    """A caption's word that rests on several patches, with its graph and its PDS-tree."""
    question, trace = kit.run("caption")
    layout = trace.layout
    last = int(layout.positions("generated")[-1]) - layout.n_prompt  # the end is no word
    found = cl.explain(trace, last, seed=kit.seed)
    graph = found.head_graph
    if graph is None:
        raise RuntimeError(f"no graph of {found.target.text!r} was learned: {found.graph_outcome}")
    depth = {
        int(p): int(d)
        for node, d in zip(graph.tree.node[::-1], graph.tree.depth[::-1], strict=True)
        for p in graph.members[int(node)]
    }  # breadth-first, so the smallest depth of a node is written last
    pag = graph.structure.pag
    numbers = {
        **explained(question, trace, found), "nodes": len(pag.marks), "edges": pag.n_edges,
        "neighbours": int((pag.marks[graph.target_node] > 0).sum()),
        "found_by": found.main.found_by, "radius": found.main.radius,
        "depths": [depth.get(p) for p in found.positions],
        "tree": len(set(graph.tree.node[1:].tolist())), "deepest": int(graph.tree.depth.max()),
        "shown": NODES, "drawn": min(RINGS, int(graph.tree.depth.max())),
    }  # fmt: skip
    view, members = view_of(trace), member_numbers(found.main.units)

    def tree() -> Image.Image:
        return draw_tree(
            view, graph, members, radius=numbers["drawn"],
            title=f"PDS-tree of “{found.target.text}”",
        )  # fmt: skip

    return numbers, {
        "several": partial(figure_of, found, max_nodes=NODES), "several-tree": tree
    }  # fmt: skip


def methods(kit: Kit) -> Entry:
    """Methods side by side: the same number of patches masked for each, and four metrics."""
    question, trace = kit.run("shape")
    found = cl.explain(trace, trace.answer, candidates="image", seed=kit.seed)
    target = found.target
    case = Case(trace, target, units="patch", seed=kit.seed)
    scored = [
        # `causal` searches again: so its passes are counted as those of the others are.
        cl.attribute(trace, target, name, units=case.units, seed=kit.seed)
        for name in (*METHODS, "causal")
    ]
    rows, units = equal_budget(case, scored, len(found.main.units))
    table = cl.evaluate(trace, target, scored, METRICS, case=case)
    for row in rows:
        mine = {v.metric.split("[")[0]: v.value for v in table.values if v.method == row["method"]}
        row["metrics"] = [mine[name] for name in METRICS]
    numbers = {
        **explained(question, trace, found), "size": len(found.main.units), "before": case.full,
        "metrics": list(METRICS), "better": [metric_info(name).better for name in METRICS],
        "methods": rows,
    }  # fmt: skip
    draw = partial(pictures.maps, trace, scored, rows, units, case.full, columns=4, first=True)
    return numbers, {"methods": draw}


def questions(kit: Kit) -> Entry:
    """Two questions about one picture, and how the graphs of their answers differ."""
    asked, traces = zip(kit.run("colour"), kit.run("colour", SECOND), strict=True)
    found = [cl.explain(trace, trace.answer, seed=kit.seed) for trace in traces]
    graphs = [e.head_graph for e in found if e.head_graph is not None]
    difference, one, two, labels = graph_difference(
        graphs[0], traces[0].layout, graphs[1], traces[1].layout
    )
    numbers = {
        "sides": [explained(q, t, e) for q, t, e in zip(asked, traces, found, strict=True)],
        "both": difference.true_positives, "first": difference.false_positives,
        "second": difference.false_negatives, "shd": difference.shd, "nodes": len(labels),
    }  # fmt: skip

    def sides() -> Image.Image:
        return pictures.beside(*(
            draw_patches(
                view_of(t), e.sets["image"].units, title=f"{name}: {q} “{t.answer}”"
            )
            for name, q, t, e in zip("AB", asked, traces, found, strict=True)
        ))  # fmt: skip

    def graph() -> Image.Image:
        linked = np.flatnonzero((one.marks + two.marks).any(axis=1))
        keep = np.ix_(linked, linked)
        return draw_difference(
            PAG(one.marks[keep]), PAG(two.marks[keep]), names=[labels[n] for n in linked],
            learned_name="A", truth_name="B", max_nodes=16, max_edges=30,
            title="The graphs of the two answers: where they differ most",
        )  # fmt: skip

    return numbers, {"questions": sides, "questions-graphs": graph}


def worst_case(path: Path = LEADERBOARD) -> dict[str, Any]:
    """Choose the leaderboard's target where the causal method is furthest behind, by the rule.

    The rule: of the targets that change when everything is masked, the one with the largest
    difference in deletion (lower is better) between `causal` and the best other method that was
    measured on every target; of equal ones the first.
    """
    config, lines = read_config(path), read_lines(path)
    place = config["columns"].index(RULE)
    names = [
        m for m in config["methods"] if m not in (*config["costly"], "causal", FLOOR)
    ]  # fmt: skip
    gaps = []
    for line in lines:
        values = {m: row["values"][place] for m, row in line["result"]["methods"].items()}
        if line["result"]["maskable"]:
            best = min(names, key=values.__getitem__)
            gaps.append((values["causal"] - values[best], line["key"], best, line["result"]))
    gap, key, best, result = max(gaps, key=lambda g: (g[0], -g[1]))
    values = {m: dict(zip(config["columns"], row["values"], strict=True))
              for m, row in result["methods"].items()}  # fmt: skip
    return {
        "key": key, "best": best, "gap": gap, "scene": result["scene"],
        "targets": len(gaps), "behind": sum(g[0] > 0 for g in gaps), "others": len(names),
        "behind_best": sum(
            g[3]["methods"]["causal"]["values"][place] > g[3]["methods"][best]["values"][place]
            for g in gaps
        ),
        "seed": config["seed"],
        "leaderboard": {m: {k: values[m][k] for k in METRICS} for m in ("causal", best)},
    }  # fmt: skip


def asked_in(item: dict[str, int]) -> str:
    """Return the question of an item, as a person would type it."""
    rng = np.random.default_rng([item["seed"], item["stream"], item["scene"]])
    return draw_scene(rng).questions()[item["question"]].prompt


def loses(kit: Kit) -> Entry:
    """The target of the leaderboard where another method's ranking beats the causal one most."""
    from experiments.common.streams import LEADERBOARD as STREAM
    from experiments.leaderboard.settings import PER_SCENE, UNITS

    chosen = worst_case()
    plan, _ = plan_items(
        kit.model, chosen["key"] + 1, seed=chosen["seed"], stream=STREAM, per_scene=PER_SCENE
    )
    item = plan[chosen["key"]]
    pair = pair_of(kit.model, item)
    trace = pair.trace
    question = asked_in(item)
    case = Case(trace, pair.target, units=UNITS, seed=chosen["seed"])
    found = cl.explain(trace, case.target, n_random=0, seed=chosen["seed"], **CAUSAL)
    scored = [
        cl.attribute(trace, case.target, name, units=case.units, seed=chosen["seed"], **options)
        for name, options in (("causal", CAUSAL), (chosen["best"], {}))
    ]
    rows, units = equal_budget(case, scored, len(found.main.units))
    table = cl.evaluate(trace, case.target, scored, METRICS, case=case)
    curves = []
    for row in rows:
        mine = {v.metric.split("[")[0]: v for v in table.values if v.method == row["method"]}
        row["metrics"] = [mine[name].value for name in METRICS]
        curves.append([float(v) for v in mine[RULE].detail["values"]])
    numbers = {
        **explained(question, trace, found), "rule": chosen, "size": len(found.main.units),
        "before": case.full, "metrics": list(METRICS), "units": case.n_units,
        "better": [metric_info(name).better for name in METRICS], "methods": rows,
        "curves": curves, "whole_image": ask(trace, case.target, trace.layout.positions("image")),
    }  # fmt: skip
    draw = partial(
        pictures.maps, trace, scored, rows, units, case.full, columns=3, curves=curves
    )  # fmt: skip
    return numbers, {"loses": draw}


ENTRIES: dict[str, Callable[[Kit], Entry]] = {
    "colour": colour, "hallucination": hallucination, "several": several, "methods": methods,
    "questions": questions, "loses": loses,
}  # fmt: skip
