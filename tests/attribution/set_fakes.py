"""A trace whose answer is any function of what is visible, and which counts what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from causal_lvlm.tokens import ImageGrid, TokenLayout, candidate_units, resolve_target


def make_layout(rows: int = 2, cols: int = 3, words: int = 2, answer: int = 1) -> TokenLayout:
    """Frame, image grid, words of the prompt, frame, generated tokens."""
    n_image = rows * cols
    tokens = ["<s>", *["<image>"] * n_image, *[f"w{i}" for i in range(words)], ":"]
    modality = ["special", *["image"] * n_image, *["prompt"] * words, "special"]
    n_prompt = len(tokens)
    tokens += [f"a{i}" for i in range(answer)]
    modality += ["generated"] * answer
    boxes = [[c, r, c + 1, r + 1] for r in range(rows) for c in range(cols)]
    grids = ()
    if n_image:
        grids = (
            ImageGrid(
                image=0,
                tile=0,
                rows=rows,
                cols=cols,
                positions=np.arange(1, 1 + n_image),
                boxes=np.array(boxes, dtype=float),
                image_size=(cols, rows),
            ),
        )
    numbers = [-1] * (1 + n_image) + list(range(words)) + [-1] + list(range(words, words + answer))
    ids = np.arange(len(tokens))
    return TokenLayout(tuple(tokens), ids, np.array(modality), grids, np.array(numbers), n_prompt)


@dataclass
class SetTrace:
    """Its target's probability is ``chance(visible)`` of the visible positions (T,) bool.

    `chance` returns one number, or one for each target token. The margin is ln p - ln(1 - p); the
    token compared with has probability ``(1 - p) / 2``.
    """

    chance: Callable[[np.ndarray], Any]
    layout: TokenLayout = field(default_factory=make_layout)
    model_id: str = "fake"
    revision: str | None = None
    rows: int = 0
    asked: list[bytes] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)
    features: np.ndarray | None = None

    def units(self, pool: int = 1):
        return candidate_units(self.layout, self.target(), pool=pool)

    def target(self):
        return resolve_target(self.layout, slice(0, len(self.layout) - self.layout.n_prompt))

    def evaluate(self, keep: np.ndarray, target: Any, **options: Any) -> Any:
        assert keep.dtype == np.bool_ and keep.shape[1] == len(self.layout)
        self.rows += len(keep)
        self.asked += [row.tobytes() for row in keep]
        self.options.append(options)
        p = np.array([np.atleast_1d(self.chance(row)) for row in keep], dtype=np.float64)
        return SimpleNamespace(
            token_log_probs=np.log(p),
            log_prob=np.log(p).sum(axis=1),
            argmax=np.zeros(p.shape, dtype=np.int64),
            runner_up=np.ones(p.shape, dtype=np.int64),
            margin=np.log(p) - np.log1p(-p),
            against_log_prob=None if options.get("against") is None else np.log((1 - p[:, 0]) / 2),
            backend="fake",
            check=None,
        )

    def embeddings(self) -> np.ndarray:
        if self.features is None:
            rng = np.random.default_rng(3)
            self.features = rng.normal(size=(len(self.layout), 5)).astype(np.float32)
        return self.features

    def hidden_states(self, layer: int = -1) -> np.ndarray:
        return np.cumsum(self.embeddings(), axis=0)


def additive(weights: np.ndarray, offset: float = 0.0) -> Callable[[np.ndarray], float]:
    """Return p = offset + the weights of the visible positions."""
    return lambda visible: offset + float(np.dot(weights, visible))
