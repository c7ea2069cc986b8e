"""Small stand-ins for results, so that pictures are tested without running a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from causal_lvlm.tokens import ImageGrid, Target, TokenLayout, resolve_target
from causal_lvlm.viz.view import TraceView

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


def fake_view(words: tuple[str, ...] = ("red", "circle")) -> TraceView:
    return TraceView(
        image=fake_image(),
        layout=fake_layout(words),
        prompt="USER: <image>\nwhat color is the circle ? ASSISTANT:",
        answer=" ".join(words),
        model_id="fake <model>",
        revision="0",
        details={"versions": {"numpy": np.__version__}, "self_check": {"passed": True}},
    )


def fake_trace(words: tuple[str, ...] = ("red", "circle")) -> Any:
    view = fake_view(words)
    return SimpleNamespace(
        image=view.image,
        layout=view.layout,
        prompt=view.prompt,
        answer=view.answer,
        model_id=view.model_id,
        revision=view.revision,
        versions=view.details["versions"],
        parameters={"max_new_tokens": 8},
        self_check=None,
        log_probs=np.log(np.full(len(words), 0.9)),
    )


@dataclass
class FakeTree:
    node: np.ndarray
    parent: np.ndarray
    depth: np.ndarray

    def within(self, radius: int) -> np.ndarray:
        inside = (self.depth >= 1) & (self.depth <= radius)
        return np.unique(self.node[inside])


def fake_tree(marks: np.ndarray, root: int, max_depth: int = 3) -> FakeTree:
    """Walk all ways from the root, a node at most once a way (enough for pictures)."""
    rows = [(root, -1, 0)]
    at = 0
    while at < len(rows):
        node, parent, depth = rows[at]
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
    node, parent, depth = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return FakeTree(node, parent, depth)


def fake_graph(layout: TokenLayout, target: Target, *, density: float = 0.03, seed: int = 0) -> Any:
    """A random ordered PAG over all candidates, the target as last node."""
    rng = np.random.default_rng(seed)
    allowed = [p for p in range(target.start) if layout.modality[p] != "special"]
    positions = np.array([*allowed, target.start])
    n = len(positions)
    marks = np.zeros((n, n), dtype=np.uint8)
    for j in range(1, n):
        for i in range(j):
            if rng.random() < (density if j < n - 1 else 0.08):
                marks[i, j] = 2
                marks[j, i] = rng.choice([1, 2, 3])
    return SimpleNamespace(
        head=1,
        positions=positions,
        members=tuple((int(p),) for p in positions),
        target_node=n - 1,
        structure=SimpleNamespace(
            pag=FakePag(marks), n_tests=1234, complete=True, parameters={"alpha": 1e-5}
        ),
        tree=fake_tree(marks, n - 1),
        sink_mass=0.25,
        labels=tuple(layout.label(int(p)) for p in positions),
    )


@dataclass
class FakePag:
    marks: np.ndarray

    def to_dot(self, labels: Any = None) -> str:
        return "digraph { }\n"

    def to_json(self) -> str:
        return '{"kind": "pag"}'

    def to_graphml(self, path: Any) -> None:
        path.write_text("<graphml/>")


@dataclass
class FakeSet:
    units: tuple[tuple[int, ...], ...]
    verified: bool = True
    outcome: str = "explained"
    minimality: str = "minimum"
    found_by: str | None = "graph"
    head: int | None = 1
    radius: int | None = 1
    probability_before: float = 0.97
    probability_after: float = 0.02
    predicted_before: str = "red"
    predicted_after: str = "<blue>"
    margin_before: float = 4.2
    margin_after: float = -1.5
    random_flip_rate: float | None = 0.05
    n_random: int = 20
    alternatives: tuple[tuple[int, ...], ...] = ()
    model_runs: int = 64

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(sorted(p for unit in self.units for p in unit))

    @property
    def size(self) -> int:
        return len(self.units)


@dataclass
class FakeExplanation:
    target: Target
    sets: dict[str, FakeSet]
    graphs: tuple[Any, ...]
    mode: str = "necessary"
    tester: str = "flip"
    masking: str = "remove"
    source: str = "attention"
    layer: int = -1
    model_id: str = "fake <model>"
    revision: str = "0"
    seed: int = 0
    seconds: float = 0.5
    parameters: dict[str, Any] = field(default_factory=lambda: {"max_radius": 3, "alpha": 1e-5})
    versions: dict[str, str] = field(default_factory=lambda: {"numpy": np.__version__})

    @property
    def joint(self) -> FakeSet | None:
        return self.sets.get("joint")

    @property
    def graph(self) -> Any:
        return self.graphs[0]

    @property
    def verified(self) -> bool:
        return any(s.verified for s in self.sets.values())

    def sentence(self) -> str:
        return f"The model says “{self.target.text}” because of “circle” & one patch <b>."

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "explanation", "target": self.target.text}

    def save(self, path: Any) -> Any:
        return path


def fake_explanation(view: TraceView, target: str = "red", **options: Any) -> FakeExplanation:
    found = resolve_target(view.layout, target)
    word = view.layout.tokens.index("circle")
    graph = fake_graph(view.layout, found)
    sets = {
        "joint": FakeSet(((13,), (word,))),
        "image": FakeSet(((13,), (14,), (21,)), minimality="irreducible", found_by="fallback"),
        "text": FakeSet(((word,),), verified=False, outcome="budget_exhausted", minimality="none"),
    }
    return FakeExplanation(found, sets, (graph,), **options)


def fake_attribution(view: TraceView, target: str = "red", method: str = "relevancy") -> Any:
    found = resolve_target(view.layout, target)
    scores = np.zeros(len(view.layout))
    for position in view.layout.positions("image"):
        _, row, col = view.layout.patch_cell(int(position)) or (0, 0, 0)
        scores[position] = np.exp(-((row - 1.5) ** 2 + (col - 1.5) ** 2) / 2.0)
    scores[67:72] = [0.1, 0.2, 0.1, 0.0, 0.8]
    return SimpleNamespace(
        method=method,
        scores=scores,
        target=found,
        parameters={"layer": -1},
        model_runs=1,
        backward_passes=1,
        seconds=0.02,
        to_dict=lambda: {"method": method},
    )
