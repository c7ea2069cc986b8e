"""Attention and its gradient, composed over the layers of a backward pass.

Layers come from the last to the first, so a product over layers is built from the left:
``rows ← rows + rows C`` for each layer, where `rows` may be the whole identity or the few rows that
are wanted (a vector then takes the place of a matrix). The layer's C comes from its attention A and
the gradient G of the target's score, two ways:

- `relevancy_matrix`: mean over heads of ``(G * A)⁺``, rules 5 and 6 of Chefer et al. (ICCV 2021,
  arXiv 2103.15679);
- `influence_matrix`: mean over heads of ``|G * A|``, divided by its largest row sum.

A layer is read some rows at a time, as far as those rows can see: nothing of size (H, T, T) is
made, in a causal model half of each layer is never computed, and of a product over triangles only
the triangles are multiplied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from causal_lvlm.arrays import AnyArray, FloatArray
from causal_lvlm.errors import AttentionError
from causal_lvlm.protocols import HasLayout, LayerGradientLike, LayersLike
from causal_lvlm.tokens import Target, TargetLike, resolve_target

__all__ = [
    "Composable",
    "check_finite",
    "compose",
    "compose_layer",
    "edge_estimates",
    "influence_matrix",
    "layer_blocks",
    "relevancy_matrix",
]

LEAST_REST = 1e-6  # of a row of attention, when one edge of it is cut

# Rows, attention (H, r, k) and gradient of r rows over the first k positions; the rest is zero.
Block = tuple[slice, AnyArray, AnyArray]


class Composable(HasLayout, Protocol):
    """A trace whose layers are composed."""

    def backward(
        self, target: TargetLike, *, score: str = "logit", against: int | str | None = None
    ) -> LayersLike:
        """Run one teacher-forced forward pass and one backward pass."""


def check_finite(values: AnyArray, what: str) -> None:
    """Raise `AttentionError` if any value is NaN or infinite; `what` names them."""
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise AttentionError(
            f"{what}: {bad} of {values.size} values are NaN or infinite; "
            "run the model in float32 (dtype='float32') and look at its weights"
        )


def layer_blocks(layer: LayerGradientLike, gradient: bool = True) -> Iterator[Block]:
    """Yield a layer in blocks of rows, or as a whole where it has no blocks."""
    blocks = getattr(layer, "blocks", None)
    if blocks is None:
        yield slice(0, layer.attention.shape[1]), layer.attention, layer.gradient
    else:
        yield from blocks(gradient=gradient)


def _rule_5(attention: AnyArray, gradient: AnyArray) -> AnyArray:
    """Return mean over heads of (G * A)⁺, float32 (r, k), one head in memory at a time."""
    total = np.zeros(attention.shape[1:], dtype=np.float32)
    for a, g in zip(attention, gradient, strict=True):
        total += np.maximum(a * g, 0)  # NaN stays NaN
    total /= len(attention)
    return total


def _influence(attention: AnyArray, gradient: AnyArray) -> AnyArray:
    """Return mean over heads of |G * A|, float64 (r, k), one head in memory at a time."""
    total = np.zeros(attention.shape[1:])
    for a, g in zip(attention, gradient, strict=True):
        total += np.abs(np.asarray(a, dtype=np.float64) * g)
    total /= len(attention)
    return total


def compose(
    rows: FloatArray, last_layer_first: Iterable[LayerGradientLike], source: str, where: str
) -> FloatArray:
    """Return rows (I + C^L) ... (I + C^1).

    Parameters
    ----------
    rows : ndarray of float64, shape (n_rows, N)
    last_layer_first : iterable of layers
        As `BackwardPass.language` and `BackwardPass.vision` yield them.
    source : {"relevancy", "influence"}
        Which C; see the module's text.
    where : str
        What the layers are of, for the error.

    Returns
    -------
    ndarray of float64, shape (n_rows, N)

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    """
    composed = rows.copy()
    for layer in last_layer_first:
        for _ in compose_layer(composed, layer, source, where):
            pass
    return composed


def compose_layer(
    rows: FloatArray, layer: LayerGradientLike, source: str, where: str
) -> Iterator[tuple[slice, AnyArray]]:
    """Add ``rows C`` of one layer to the rows in place; yields the attention it reads."""
    rule = _rule_5 if source == "relevancy" else _influence
    added = np.zeros_like(rows)
    largest = 0.0
    for part, attention, gradient in layer_blocks(layer):
        weights = rule(attention, gradient)
        check_finite(weights, f"gradient x attention of layer {layer.layer} of the {where}")
        largest = max(largest, float(weights.sum(axis=1).max(initial=0.0)))
        left = rows[:, part]
        some = left.any(axis=1)
        first = int(some.argmax()) if some.any() else len(rows)  # causal rows see nothing later
        added[first:, : weights.shape[1]] += left[first:] @ weights
        yield part, attention
    if source == "influence" and largest > 0.0:
        added /= largest
    rows += added


def relevancy_matrix(
    trace: Composable,
    target: TargetLike,
    *,
    score: str = "logit",
    against: int | str | None = None,
) -> FloatArray:
    """Return the relevancy matrix R of the language model after all its layers.

    R[i, j] is what position j contributed to position i, with the identity in it. Layers come
    from the last to the first, so R ← R + R C is used: the same product as rule 6.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
        Whose score is differentiated; see `resolve_target`.
    score : {"logit", "log_prob"}
        What is differentiated.
    against : optional
        Token that is subtracted from the score, as `Trace.backward` takes it.

    Returns
    -------
    ndarray of float64, shape (T, T)

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    TargetError
        If the answer holds no such token.
    """
    found = resolve_target(trace.layout, target)
    backward = trace.backward(found, score=score, against=against)
    return compose(np.eye(len(trace.layout)), backward.language(), "relevancy", "language model")


def influence_matrix(trace: Composable, target: Target, *, score: str = "logit") -> FloatArray:
    """Compose the absolute gradient-weighted attention of all layers, shape (T, T).

    1. Per layer, ``C = mean over heads of |A * dy/dA|`` for the target's score y: a first-order
       estimate of how much y changes when an attention edge is cut, up or down.
    2. C is divided by its largest row sum, so that the share of the residual path does not hang
       on the unit of y.
    3. ``(I + C^L) ... (I + C^1)``, as rule 6 of Chefer et al. (ICCV 2021, arXiv 2103.15679).

    The relevancy matrix of that paper clips negative products (its rule 5). An edge with a
    negative product is evidence too: it matters for what is *not* said, and with a raw logit as
    score the evidence against the rivals has a small or negative gradient.

    Parameters
    ----------
    trace : Trace
    target : Target
    score : {"logit", "log_prob"}

    Returns
    -------
    ndarray of float64, shape (T, T)
        Row i: what position i took from every position, itself included.

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    """
    backward = trace.backward(target, score=score)
    return compose(np.eye(len(trace.layout)), backward.language(), "influence", "language model")


def edge_estimates(
    trace: Composable, target: Target, kinds: Sequence[str], layers: Sequence[int] | None = None
) -> list[FloatArray]:
    """Estimate what cutting each edge does to the target's margin, from one backward pass.

    See `causal_lvlm.attribution.edge_effects` for the formulas.

    Parameters
    ----------
    trace : Trace
    target : Target
    kinds : sequence of {"gradient", "attention_gradient"}
    layers : sequence of int, optional
        Layers that count; all by default.

    Returns
    -------
    list of ndarray of float64, shape (stop, stop)
        One for each kind. Rows are readers, columns sources, up to the last row that predicts the
        target.

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    """
    stop = target.positions[-1]
    totals: list[FloatArray] = [np.zeros((stop, stop)) for _ in kinds]
    for layer in trace.backward(target, score="margin").language():
        if layers is not None and layer.layer not in layers:
            continue
        for rows, attention, gradient in layer_blocks(layer):
            inside = slice(rows.start, min(rows.stop, stop))
            n_rows = inside.stop - inside.start
            for a, g in zip(attention[:, :n_rows], gradient[:, :n_rows], strict=True):
                weight = np.asarray(a, dtype=np.float64)
                product = weight * g
                for kind, total in zip(kinds, totals, strict=True):
                    part = (
                        np.abs(product) if kind == "attention_gradient" else _fall(weight, product)
                    )
                    total[inside, : min(part.shape[1], stop)] += part[:, :stop]
        for total in totals:
            what = f"gradient x attention of layer {layer.layer} of the language model"
            check_finite(total, what)
    return totals


def _fall(weight: FloatArray, product: FloatArray) -> FloatArray:
    """Return A / (1 - A) (G - sum of A G over the row), from A and A G."""
    rest = np.maximum(1.0 - weight, LEAST_REST)
    fall: FloatArray = (product - weight * product.sum(axis=1, keepdims=True)) / rest
    return fall
