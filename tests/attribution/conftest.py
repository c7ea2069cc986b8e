"""A trace without a model: random attention and gradients, so that maths is tested alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from causal_lvlm.tokens import ImageGrid, TokenLayout
from tests.explanation.fakes import FakeModel

N_HEADS = 3
TEXTS = (
    ["<s>", "user:"] + ["<image>"] * 6 + ["what", "color", "?", "assistant:", "dark", "red", "."]
)
MODALITY = ["special"] * 2 + ["image"] * 6 + ["prompt"] * 3 + ["special"] + ["generated"] * 3


def make_layout():
    """T = 15: frame, 2 x 3 image, three words, frame, three generated tokens from position 12."""
    grid = ImageGrid(
        image=0,
        tile=0,
        rows=2,
        cols=3,
        positions=np.arange(2, 8),
        boxes=np.arange(24.0).reshape(6, 4),
        image_size=(30, 20),
    )
    n = len(TEXTS)
    return TokenLayout(tuple(TEXTS), np.arange(n), MODALITY, (grid,), np.arange(n), 12)


@dataclass
class FakeLayer:
    layer: int
    attention: np.ndarray
    gradient: np.ndarray


@dataclass
class FakeBackward:
    layers: list
    tower: list | None

    def language(self):
        return iter(reversed(self.layers))

    def vision(self):
        if self.tower is None:
            raise AssertionError("backward was asked for without vision=True")
        return iter(reversed(self.tower))


@dataclass
class FakeTrace:
    """Counts what is asked of it, so that the costs reported can be compared."""

    layout: TokenLayout
    layers: list
    tower: list
    vision_positions: np.ndarray
    model_id: str = "fake"
    model = FakeModel()
    revision: str | None = "r1"
    forwards: int = 0
    backwards: int = 0
    asked: list = field(default_factory=list)
    attention_kinds: tuple[str, ...] = ()

    def attention(self, layers=(-1,)):
        self.forwards += 1
        return np.stack([self.layers[layer].attention for layer in layers])

    def iter_attention(self):
        self.forwards += 1
        yield from ((layer.layer, layer.attention) for layer in self.layers)

    def backward(self, target, *, score="logit", vision=False, against=None):
        self.forwards += 1
        self.backwards += 1
        self.asked.append((target, score, against))
        return FakeBackward(self.layers, self.tower if vision else None)


def random_layers(rng, n_layers, size, causal):
    """Attention with rows that sum to one, and gradients of either sign."""
    layers = []
    for number in range(n_layers):
        weights = rng.gamma(0.3, size=(N_HEADS, size, size)) + 1e-3
        if causal:
            weights = np.tril(weights)
        weights /= weights.sum(axis=-1, keepdims=True)
        gradient = rng.normal(size=weights.shape)
        layers.append(FakeLayer(number, weights.astype(np.float32), gradient.astype(np.float32)))
    return layers


@pytest.fixture
def trace():
    """A fake LLaVA: 4 language layers, 3 tower layers with a class token, one token per patch."""
    rng = np.random.default_rng(5)
    layout = make_layout()
    return FakeTrace(
        layout=layout,
        layers=random_layers(rng, 4, len(layout), causal=True),
        tower=random_layers(rng, 3, 7, causal=False),
        vision_positions=np.array([-1, *range(2, 8)]),
    )


@pytest.fixture
def merging_trace(trace):
    """The same, with two tower tokens per image position in shuffled order and no class token."""
    rng = np.random.default_rng(6)
    trace.tower = random_layers(rng, 3, 12, causal=False)
    trace.vision_positions = rng.permutation(np.repeat(np.arange(2, 8), 2))
    return trace
