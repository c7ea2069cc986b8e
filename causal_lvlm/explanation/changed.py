"""A trace whose attention is another one when it is read: for stability and null graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.tokens import Target

__all__ = ["LEARN_OPTIONS", "ChangedTrace", "influence_products"]

LEARN_OPTIONS = ("algorithm", "variant", "max_conditioning_size", "max_tests", "time_limit")


class ChangedTrace:
    """A trace whose attention is changed when it is read; everything else is the trace's own.

    `products` are |weight * gradient| of every layer, the last first, where these are changed.
    """

    def __init__(
        self,
        trace: Any,
        change: Callable[[FloatArray], FloatArray],
        products: Sequence[FloatArray] = (),
    ) -> None:
        self._trace, self._change, self._products = trace, change, products

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)

    def attention(self, layers: Any = (-1,)) -> FloatArray:
        """Return the changed attention of the asked layers, as `Trace.attention` does."""
        weights = self._trace.attention(layers=layers)
        return np.stack([self._change(np.asarray(w, dtype=np.float64)) for w in weights])

    def iter_attention(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield each layer with its changed attention, as `Trace.iter_attention` does."""
        for layer, weights in self._trace.iter_attention():
            yield layer, self._change(np.asarray(weights, dtype=np.float64))

    def backward(self, target: Target, **options: Any) -> Any:
        """Return changed attention with gradients, as `Trace.backward` does."""
        if not self._products:
            return self._trace.backward(target, **options)
        # What is made of them takes |weight * gradient|: one head, whose gradient is 1 everywhere.
        one = np.ones((1, 1, 1))
        layers = (
            SimpleNamespace(layer=number, attention=self._change(product)[None], gradient=one)
            for number, product in reversed(list(enumerate(reversed(self._products))))
        )
        return SimpleNamespace(language=lambda: layers)


def influence_products(trace: Any, target: Target) -> list[FloatArray]:
    """Return mean |weight * gradient| over heads of every layer, the last first, (T, T) each."""
    found: list[FloatArray] = []
    for layer in trace.backward(target, score="logit").language():
        product = np.asarray(layer.attention, np.float64) * np.asarray(layer.gradient, np.float64)
        found.append(np.abs(product).mean(axis=0))
    return found
