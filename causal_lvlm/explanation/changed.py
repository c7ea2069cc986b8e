"""A trace whose attention is another one when it is read: for stability and null graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.composition import Composable
from causal_lvlm.protocols import LayerGradientLike, LayersLike
from causal_lvlm.sources import Readable
from causal_lvlm.tokens import Target, TargetLike

__all__ = ["LEARN_OPTIONS", "ChangedTrace", "influence_products"]

LEARN_OPTIONS = ("algorithm", "variant", "max_conditioning_size", "max_tests", "time_limit")


class ChangedTrace:
    """A trace whose attention is changed when it is read; all else that is read is its own.

    `products` are |weight * gradient| of every layer, the last first, where these are changed.
    """

    def __init__(
        self,
        trace: Readable,
        change: Callable[[FloatArray], FloatArray],
        products: Sequence[FloatArray] = (),
    ) -> None:
        self._trace, self._change, self._products = trace, change, products
        self.layout, self.model_id, self.n_layers = trace.layout, trace.model_id, trace.n_layers
        self.layer_remark, self.head_values = trace.layer_remark, trace.head_values

    @property
    def global_layer(self) -> int:
        """The last layer that looks at the whole sequence."""
        return self._trace.global_layer

    def attention(self, layers: int | str | Sequence[int | str] = (-1,)) -> FloatArray:
        """Return the changed attention of the asked layers, as `Trace.attention` does."""
        weights = self._trace.attention(layers=layers)
        return np.stack([self._change(np.asarray(w, dtype=np.float64)) for w in weights])

    def iter_attention(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield each layer with its changed attention, as `Trace.iter_attention` does."""
        for layer, weights in self._trace.iter_attention():
            yield layer, self._change(np.asarray(weights, dtype=np.float64))

    def backward(
        self, target: TargetLike, *, score: str = "logit", against: int | str | None = None
    ) -> LayersLike:
        """Return changed attention with gradients, as `Trace.backward` does."""
        if not self._products:
            return self._trace.backward(target, score=score, against=against)
        return _Products(self._products, self._change)


@dataclass(frozen=True)
class _Products:
    """Layers of which |weight * gradient| is known, the last first."""

    products: Sequence[FloatArray]
    change: Callable[[FloatArray], FloatArray]

    def language(self) -> Iterator[LayerGradientLike]:
        """Yield them changed: what is composed of |A G| takes a head A whose G is 1 everywhere."""
        one = np.ones((1, 1, 1))
        for number, product in enumerate(self.products, start=1):
            yield _Layer(len(self.products) - number, self.change(product)[None], one)


class _Layer(NamedTuple):
    layer: int
    attention: FloatArray
    gradient: FloatArray


def influence_products(trace: Composable, target: Target) -> list[FloatArray]:
    """Return mean |weight * gradient| over heads of every layer, the last first, (T, T) each."""
    found: list[FloatArray] = []
    for layer in trace.backward(target, score="logit").language():
        product = np.asarray(layer.attention, np.float64) * np.asarray(layer.gradient, np.float64)
        found.append(np.abs(product).mean(axis=0))
    return found
