"""A trace whose "model" is a Boolean function of the visible positions: the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from causal_lvlm.results import Evaluation
from causal_lvlm.tokens import ImageGrid, TokenLayout

SAID, OTHER = 7, 8


class FakeModel:
    """A model that nothing is asked of; its memory is not measured."""

    def peak_memory(self) -> Any:
        return nullcontext(SimpleNamespace(bytes=None))


def layout(rows: int = 2, cols: int = 2, words: int = 2) -> TokenLayout:
    """Frame, image grid, words of the prompt, frame, one generated token."""
    n_image = rows * cols
    start = 1
    tokens = ["<s>", *["<image>"] * n_image, *[f"w{i}" for i in range(words)], ":", "red"]
    modality = ["special", *["image"] * n_image, *["prompt"] * words, "special", "generated"]
    boxes = [
        [10.0 * c, 10.0 * r, 10.0 * c + 10, 10.0 * r + 10] for r in range(rows) for c in range(cols)
    ]
    grid = ImageGrid(
        image=0, tile=0, rows=rows, cols=cols,
        positions=np.arange(start, start + n_image), boxes=np.array(boxes),
        image_size=(10 * cols, 10 * rows),
    )  # fmt: skip
    numbers = [-1] * (1 + n_image) + list(range(words)) + [-1, words]
    ids = [0] * (len(tokens) - 1) + [SAID]
    return TokenLayout(tuple(tokens), np.array(ids), np.array(modality), (grid,), np.array(numbers),
                       len(tokens) - 1)  # fmt: skip


@dataclass
class FakeTrace:
    """Says SAID as long as `keeps(visible positions)` is true; counts every row."""

    keeps: Callable[[frozenset[int]], bool]
    layout: TokenLayout = field(default_factory=layout)
    seed: int = 0
    rows: int = 0
    asked: list[frozenset[int]] = field(default_factory=list)
    interrupt_at: int | None = None
    model_id: str = "fake"
    model = FakeModel()
    revision: str | None = None
    n_layers: int = 1

    @property
    def self_check(self) -> Any:
        return SimpleNamespace(passed=True)

    def attention(self, layers: tuple[int, ...] = (-1,)) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        length = len(self.layout)
        weights = np.tril(rng.gamma(0.3, size=(len(layers), 2, length, length)) + 1e-6)
        return np.asarray(weights / weights.sum(-1, keepdims=True), dtype=np.float32)

    def iter_attention(self) -> Any:
        yield 0, self.attention()[0]

    def head_values(self, layer: int = -1) -> np.ndarray:
        return np.random.default_rng(1).normal(size=(2, len(self.layout), 8)).astype(np.float32)

    def backward(self, target: Any, **_: Any) -> Any:
        rng = np.random.default_rng(self.seed + 1)
        product = rng.normal(size=len(self.layout))
        weights = self.attention()[0]
        gradient = rng.normal(size=weights.shape).astype(np.float32)
        layers = [SimpleNamespace(layer=0, attention=weights, gradient=gradient)]
        return SimpleNamespace(
            input_x_gradient=product,
            gradient_norm=np.abs(rng.normal(size=len(self.layout))),
            language=lambda: iter(layers),
        )

    def evaluate(self, keep: np.ndarray, target: Any, **options: Any) -> Evaluation:
        said, length = [], len(self.layout)
        for row in keep:
            self.rows += 1
            if self.interrupt_at is not None and self.rows >= self.interrupt_at:
                self.interrupt_at = None
                raise KeyboardInterrupt
            visible = frozenset(int(p) for p in np.flatnonzero(row))
            self.asked.append(frozenset(range(length)) - visible)
            said.append(self.keeps(visible))
        ok = np.array(said, dtype=bool)[:, None]
        log_prob = np.log(np.where(ok, 0.9, 0.1))
        return Evaluation(
            token_log_probs=log_prob, argmax=np.where(ok, SAID, OTHER),
            margin=np.where(ok, 1.0, -1.0), runner_up=np.full(ok.shape, OTHER),
            top_log_prob=np.full(ok.shape, np.log(0.9)),
            against_log_prob=np.log(np.where(ok, 0.1, 0.9))[:, 0], runs=len(keep),
            masking=options.get("masking", "remove"), backend="fake",
        )  # fmt: skip

    def layer_remark(self, layer: int) -> str | None:
        return None

    def token_text(self, token: int) -> str:
        return {SAID: "red", OTHER: "blue"}.get(token, "?")

    def token_id(self, text: str) -> int:
        return {"red": SAID, "blue": OTHER}[text]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "trace",
            "tokens": list(self.layout.tokens),
            "modality": self.layout.modality.tolist(),
        }
