"""Small stand-ins for results, so that pictures are tested without running a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.attribution import Attribution
from causal_lvlm.explanation.graphs import HeadGraph
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.record import TraceRecord
from causal_lvlm.results import SelfCheck
from causal_lvlm.structure import (
    PAG,
    LearnedStructure,
    PairEvidence,
    PDSTree,
    learn_structure,
    pds_tree,
)
from causal_lvlm.tokens import ImageGrid, Target, TokenLayout, resolve_target
from causal_lvlm.viz.view import TraceView, view_of

PATCH, SIDE = 12, 8


def fake_image() -> Image.Image:
    image = Image.new("RGB", (96, 96), "#cdd6c8")
    draw = ImageDraw.Draw(image)
    draw.ellipse((14, 14, 34, 34), fill="#d02020")
    draw.rectangle((60, 26, 82, 48), fill="#2040d0")
    draw.polygon(((30, 88), (42, 62), (54, 88)), fill="#e8c020")
    return image


def fake_layout(words: tuple[str, ...] = ("red", "circle")) -> TokenLayout:
    """75 tokens or so: frame, 64 image tokens, a question, an answer; word-level tokens."""
    prompt = "what color is the circle ?".split()
    tokens = ["<s>", "user", ":", *["<image>"] * 64, *prompt, "assistant", ":", *words]
    kinds = ["special"] * 3 + ["image"] * 64 + ["prompt"] * len(prompt) + ["special"] * 2
    kinds += ["generated"] * len(words)
    cells = [(c % SIDE, c // SIDE) for c in range(64)]
    boxes = [(x * PATCH, y * PATCH, (x + 1) * PATCH, (y + 1) * PATCH) for x, y in cells]
    grid = ImageGrid(0, 0, SIDE, SIDE, np.arange(3, 67), np.array(boxes, float), (96, 96))
    count = np.cumsum(np.array(kinds) != "image")
    return TokenLayout(
        tokens=tuple(tokens),
        token_ids=np.arange(len(tokens)),
        modality=np.array(kinds),
        grids=(grid,),
        words=np.where(np.array(kinds) == "image", -1, count),
        n_prompt=len(tokens) - len(words),
    )


CHECK = SelfCheck(True, 1.0, 1e-6, 1e-3)


def record_of(images: Sequence[Image.Image], layout: TokenLayout, **options: Any) -> TraceRecord:
    """A run of which tokens and pictures are what matters."""
    values: dict[str, Any] = {
        "prompt": "",
        "answer": "",
        "log_probs": np.full(len(layout) - layout.n_prompt, -0.1),
        "self_check": CHECK,
        "model_id": "",
        "revision": None,
        "versions": {},
        "parameters": {},
        **options,
    }
    image = images[0] if images else None
    return TraceRecord(image=image, images=tuple(images), layout=layout, **values)


def view_like(images: Sequence[Image.Image], layout: TokenLayout, **options: Any) -> TraceView:
    return view_of(record_of(images, layout, **options))


def fake_view(words: tuple[str, ...] = ("red", "circle")) -> TraceView:
    return view_of(fake_trace(words))


def text_view() -> TraceView:
    """A run without an image."""
    prompt = "the sky is".split()
    tokens = ("<s>", *prompt, "blue", "today")
    layout = TokenLayout(
        tokens=tokens,
        token_ids=np.arange(len(tokens)),
        modality=np.array(["special"] + ["prompt"] * 3 + ["generated"] * 2),
        grids=(),
        words=np.arange(len(tokens)),
        n_prompt=4,
    )
    said = {"prompt": "the sky is", "answer": "blue today", "model_id": "text model"}
    return view_like((), layout, **said)


def large_view(side: int = 24, pixels: int = 28) -> TraceView:
    """A run like that of a model with 576 image tokens: a noisy photograph, a long prompt."""
    rng = np.random.default_rng(0)
    size = side * pixels
    low = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(low).resize((size, size), Image.Resampling.BICUBIC), float)
    photo += rng.normal(0.0, 12.0, photo.shape)
    image = Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8))
    cells = [divmod(c, side) for c in range(side * side)]
    boxes = [(x * pixels, y * pixels, (x + 1) * pixels, (y + 1) * pixels) for y, x in cells]
    prompt = "What is on the table, and which of these things could a small child reach?".split()
    words = "A cup, a spoon and a bowl of soup.".split()
    tokens = ["<s>", "USER", ":", *["<image>"] * side**2, *(f" {w}" for w in prompt)]
    tokens += ["ASSISTANT", ":", *(f" {w}" for w in words)]
    kinds = ["special"] * 3 + ["image"] * side**2 + ["prompt"] * len(prompt) + ["special"] * 2
    kinds += ["generated"] * len(words)
    text = np.cumsum(np.array(kinds) != "image")
    grid = ImageGrid(
        0, 0, side, side, np.arange(3, 3 + side**2), np.array(boxes, float), (size, size)
    )
    layout = TokenLayout(
        tokens=tuple(tokens),
        token_ids=np.arange(len(tokens)),
        modality=np.array(kinds),
        grids=(grid,),
        words=np.where(np.array(kinds) == "image", -1, text),
        n_prompt=len(tokens) - len(words),
    )
    said = {"prompt": " ".join(prompt), "answer": " ".join(words), "model_id": "large model"}
    return view_like((image,), layout, **said)


COLOURS = ("#204060", "#206040", "#604020")


def several_view() -> TraceView:
    """Three images of one colour each and of different sizes, each with 2 x 3 patches."""
    sizes = ((90, 60), (60, 120), (900, 600))
    grids = []
    for number, (width, height) in enumerate(sizes):
        w, h = width / 3, height / 2
        boxes = [(c * w, r * h, c * w + w, r * h + h) for r in range(2) for c in range(3)]
        start = 1 + 6 * number
        grids.append(
            ImageGrid(number, 0, 2, 3, np.arange(start, start + 6), np.array(boxes), sizes[number])
        )
    tokens = ("<s>", *["<image>"] * 18, "which", "one", "?", "red", "circle")
    layout = TokenLayout(
        tokens=tokens,
        token_ids=np.arange(len(tokens)),
        modality=np.array(["special"] + ["image"] * 18 + ["prompt"] * 3 + ["generated"] * 2),
        grids=tuple(grids),
        words=np.array([0] + [-1] * 18 + [1, 2, 3, 4, 5]),
        n_prompt=22,
    )
    images = tuple(Image.new("RGB", s, c) for s, c in zip(sizes, COLOURS, strict=True))
    return view_like(images, layout, prompt="which one ?", answer="red circle")


def fake_trace(words: tuple[str, ...] = ("red", "circle")) -> TraceRecord:
    return record_of(
        (fake_image(),),
        fake_layout(words),
        prompt="USER: <image>\nwhat color is the circle ? ASSISTANT:",
        answer=" ".join(words),
        model_id="fake <model>",
        revision="0",
        versions={"numpy": np.__version__},
        parameters={"max_new_tokens": 8},
    )


def walk_tree(marks: np.ndarray, root: int, max_depth: int = 3) -> PDSTree:
    """Walk all ways from the root, a node at most once a way (enough for pictures)."""
    rows = [(root, -1, 0)]
    at = 0
    while at < len(rows):
        node, _, depth = rows[at]
        if depth < max_depth:
            above = set()
            index = at
            while index >= 0:
                above.add(rows[index][0])
                index = rows[index][1]
            rows += [
                (int(n), at, depth + 1)
                for n in np.flatnonzero(marks[node])
                if int(n) not in above and (depth == 0 or marks[node, n] == 2)
            ]
        at += 1
    return PDSTree(*(np.array(column) for column in zip(*rows, strict=True)))


def head_graph(
    layout: TokenLayout, target: Target, marks: np.ndarray, positions: np.ndarray, head: int = 1
) -> HeadGraph:
    """Wrap marks in the objects a picture reads; the last node is the target."""
    none = np.empty((0, 2), dtype=np.int64)
    structure = LearnedStructure(
        pag=PAG(marks),
        separator_start=np.zeros(np.triu(marks == 0, k=1).sum() + 1, dtype=np.int32),
        separator_nodes=np.empty(0, dtype=np.int32),
        tests_per_size=(1000, 234),
        undecided=none,
        complete=True,
        stopped="",
        conflicts=0,
        thresholds=(0.3,),
        parameters={"threshold": 0.3},
        _eigenvalue=0.1,
    )
    names = [layout.label(int(p)) for p in positions]
    return HeadGraph(
        head=head,
        structure=structure,
        tree=walk_tree(marks, len(marks) - 1),
        positions=positions,
        members=tuple((int(p),) for p in positions),
        labels=(*names[:-1], target.text),
        target_node=len(marks) - 1,
        sink_mass=0.25,
    )


def random_graph(
    layout: TokenLayout, target: Target, *, density: float = 0.03, seed: int = 0
) -> HeadGraph:
    """A random ordered PAG over all candidates; the predicting row stands for the target."""
    rng = np.random.default_rng(seed)
    allowed = [p for p in range(target.predictor) if layout.modality[p] != "special"]
    positions = np.array([*allowed, target.predictor])
    n = len(positions)
    marks = np.zeros((n, n), dtype=np.uint8)
    for j in range(1, n):
        for i in range(j):
            if rng.random() < (density if j < n - 1 else 0.08):
                marks[i, j] = 2
                marks[j, i] = rng.choice([1, 2, 3])
    return head_graph(layout, target, marks, positions)


def learned_graph(layout: TokenLayout, target: Target, n: int = 12, seed: int = 0) -> HeadGraph:
    """A graph that was really learned, from the correlation of a random chain with shortcuts."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(400, n))
    for k in range(1, n):
        data[:, k] += data[:, k - 1] + (0.8 * data[:, k - 3] if k > 3 else 0.0)
    structure = learn_structure(
        np.corrcoef(data.T), n_samples=400, alpha=0.01, algorithm="ordered_icd",
        order=range(n), evidence=True,
    )  # fmt: skip
    positions = np.array([*range(5, 5 + n - 1), target.predictor])
    fake = head_graph(layout, target, structure.pag.marks, positions)
    tree = pds_tree(structure.pag, root=n - 1, max_depth=3)
    return replace(fake, structure=structure, tree=tree)


def sparse_graph(layout: TokenLayout, target: Target, *, mean: float, seed: int = 0) -> HeadGraph:
    """Like `random_graph`, fast for hundreds of nodes, with numbers for every pair of nodes."""
    rng = np.random.default_rng(seed)
    allowed = [p for p in range(target.predictor) if layout.modality[p] != "special"]
    positions = np.array([*allowed, target.predictor])
    n = len(positions)
    there = np.triu(rng.random((n, n)) < mean / n, k=1)
    there[:, -1] |= np.arange(n) % 29 == 5 + seed
    marks = np.where(there, 2, 0) + np.where(there, rng.integers(1, 4, (n, n)), 0).T
    graph = head_graph(layout, target, marks.astype(np.uint8), positions, head=seed)
    pairs = n * (n - 1) // 2
    evidence = PairEvidence(
        rng.uniform(0.3, 0.9, pairs), rng.uniform(0, 6, pairs), rng.integers(1, 90, pairs)
    )
    structure = replace(graph.structure, evidence=evidence)
    return replace(graph, structure=structure, candidate_mass=0.5)


def explaining_set(scope: str, *units: tuple[int, ...], **options: Any) -> ExplainingSet:
    values: dict[str, Any] = {
        "outcome": "explained",
        "verified": True,
        "minimality": "minimum",
        "found_by": "graph",
        "head": 1,
        "radius": 1,
        "probability_before": 0.97,
        "probability_after": 0.02,
        "margin_before": 4.2,
        "margin_after": -1.5,
        "predicted_after": ("<blue>",),
        "random_flip_rate": 0.05,
        "n_random": 20,
        "model_runs": 64,
        **options,
    }
    positions = tuple(sorted(p for unit in units for p in unit))
    return ExplainingSet(scope=scope, positions=positions, units=units, **values)


def fake_sets(layout: TokenLayout) -> dict[str, ExplainingSet]:
    word = layout.tokens.index("circle")
    return {
        "joint": explaining_set("joint", (13,), (word,)),
        "image": explaining_set(
            "image", (13,), (14,), (21,), minimality="irreducible", found_by="fallback", head=None
        ),
        "text": ExplainingSet(scope="text", outcome="max_runs", model_runs=9),
    }


def fake_explanation(view: TraceView, target: str | int = "red", **options: Any) -> Explanation:
    found = resolve_target(view.layout, target)
    values: dict[str, Any] = {
        "target": found,
        "sets": {} if "sets" in options else fake_sets(view.layout),
        "mode": "necessary",
        "tester": "flip",
        "masking": "remove",
        "backend": "drop",
        "graph_outcome": "candidates",
        "graphs": (random_graph(view.layout, found),),
        "dropped_heads": (),
        "excluded": ((0, "frame"),),
        "model_runs": 137,
        "parameters": {"source": "attention", "layer": -1, "row": "predictor"},
        "summary": summary_of(view),
        "versions": {"numpy": np.__version__},
        "model_id": view.run.model_id,
        "revision": view.run.revision,
        "seed": 0,
        "seconds": 0.5,
        **options,
    }
    return Explanation(**values)


def summary_of(view: TraceView) -> dict[str, Any]:
    return view.run.to_dict()


def fake_attribution(
    view: TraceView, target: str | int = "red", method: str = "relevancy"
) -> Attribution:
    found = resolve_target(view.layout, target)
    scores = np.zeros(len(view.layout))
    for position in view.layout.positions("image"):
        _, row, col = view.layout.patch_cell(int(position)) or (0, 0, 0)
        scores[position] = np.exp(-((row - 1.5) ** 2 + (col - 1.5) ** 2) / 2.0)
    scores[67:72] = [0.1, 0.2, 0.1, 0.0, 0.8]
    return Attribution(
        method=method,
        scores=scores,
        target=found,
        parameters={"layer": -1},
        model_runs=1,
        backward_passes=1,
        seconds=0.02,
        model_id=view.run.model_id,
    )
