"""The matrices M whose rows say what each token took from others, read from a trace.

`source_matrices` gives one matrix per head for attention and head outputs, and one in all for the
sources that combine layers: effective attention, mean attention with the residual path, the
relevancy matrix and the influence matrix.

Why the residual path matters: rows of bare attention say what a token *looks at*, so ``A·Aᵀ`` ties
a token to the target when both look at the same things. A token that the target looks at, and that
itself looks elsewhere, is invisible to it. With the identity in M a row also holds the token
itself, as the residual stream does, and "the target looks at it" becomes a correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from causal_lvlm.arrays import FloatArray
from causal_lvlm.composition import Composable, influence_matrix, relevancy_matrix
from causal_lvlm.errors import AttentionError
from causal_lvlm.protocols import Attends
from causal_lvlm.source_options import COMBINED, SPANNING
from causal_lvlm.target_pass import TargetPass
from causal_lvlm.tokens import Target

__all__ = [
    "Readable",
    "SourceMatrix",
    "effective_attention",
    "forward_passes",
    "mean_attention",
    "numbered_layer",
    "source_matrices",
]

# Share of a token itself in a row of `mean_attention`: chosen on the development split of
# experiments/search, where 1/2 ties the image's tokens to each other instead of to the target.
RESIDUAL_SHARE = 0.75


# One matrix for all layers and heads, see `SPANNING`.
MATRICES = {"relevancy": relevancy_matrix, "influence": influence_matrix}


class Readable(Attends, Composable, Protocol):
    """A trace, as far as matrices are read from it."""

    @property
    def model_id(self) -> str:
        """Name or path of the model."""


class SourceMatrix(NamedTuple):
    """One matrix that a correlation is made from, and where it was read.

    Attributes
    ----------
    weights : ndarray of float64, shape (T, T)
    values : ndarray of float64, shape (T, d), or None
        What the weights are multiplied with; None where they are taken as they are.
    head : int or None
        None where there is no single head.
    layer : int or "effective" or "mean" or None
        None for the sources that span all layers.
    """

    weights: FloatArray
    values: FloatArray | None = None
    head: int | None = None
    layer: int | str | None = None


def effective_attention(trace: Readable) -> FloatArray:
    """Compose attention over all layers with the residual path (rollout matrix), shape (T, T)."""
    length = len(trace.layout)
    composed: FloatArray = np.eye(length)
    for _, weights in trace.iter_attention():
        mixed = 0.5 * weights.mean(axis=0, dtype=np.float64) + 0.5 * np.eye(length)
        composed = mixed @ composed
    return composed


def mean_attention(trace: Readable, residual: float = RESIDUAL_SHARE) -> FloatArray:
    """Mean attention over all layers and heads, with the residual path, shape (T, T).

    Parameters
    ----------
    trace : Trace
    residual : float
        Share of the token itself in each row.

    Returns
    -------
    ndarray of float64, shape (T, T)
        ``residual * I + (1 - residual) * mean(A)``. Unlike the effective attention it counts
        direct looks only, of every layer alike.
    """
    length = len(trace.layout)
    total: FloatArray = np.zeros((length, length))
    layers = 0
    for _, weights in trace.iter_attention():
        total += weights.mean(axis=0, dtype=np.float64)
        layers += 1
    mixed: FloatArray = residual * np.eye(length) + (1.0 - residual) * total / max(layers, 1)
    return mixed


def source_matrices(
    trace: Readable,
    target: Target,
    source: str,
    layer: int | str,
    heads: str | Sequence[int],
    passed: TargetPass | None = None,
) -> list[SourceMatrix]:
    """Return every matrix asked for; that of a spanning source is taken from `passed`, if given.

    Raises
    ------
    AttentionError
        If weights are not finite, or a layer or head does not exist.
    """
    if source in SPANNING:
        matrix = MATRICES[source](trace, target) if passed is None else passed.take_matrix()
        return [SourceMatrix(_checked(matrix, source))]
    if layer in COMBINED:
        combine = effective_attention if layer == "effective" else mean_attention
        return [SourceMatrix(_checked(combine(trace), f"{layer} attention"), layer=layer)]
    layer, n_layers = numbered_layer(trace, layer), trace.n_layers
    attention = trace.attention(layers=(layer,))[0]
    values = trace.head_values(layer) if source == "output" else None
    return [
        SourceMatrix(
            _checked(attention[head], f"attention of layer {layer}"),
            None if values is None else values[head].astype(np.float64),
            head,
            layer % n_layers,
        )
        for head in _heads(heads, len(attention))
    ]


def forward_passes(source: str, layer: int | str) -> int:
    """Return how many passes `source_matrices` makes itself, beside the one that it is given."""
    if source in SPANNING:
        return 0
    return 1 + (source == "output" and layer not in COMBINED)


def numbered_layer(trace: Readable, layer: int | str) -> int:
    """Return the number of one layer of a trace's model; raise AttentionError if there is none."""
    if layer == "global":
        try:
            layer = trace.global_layer
        except IndexError as error:
            raise AttentionError(f"{error}; give a number") from error
    n_layers, number = trace.n_layers, int(layer)
    if not -n_layers <= number < n_layers:
        raise AttentionError(
            f"layer {number} is out of range for {trace.model_id}, which has {n_layers} layers "
            f"(0..{n_layers - 1} or negative)"
        )
    return number


def _heads(heads: str | Sequence[int], n_heads: int) -> list[int]:
    """Return the heads asked for; raise AttentionError unless all of them exist."""
    chosen = list(range(n_heads)) if isinstance(heads, str) else [int(head) for head in heads]
    if max(chosen) >= n_heads:
        raise AttentionError(
            f"heads must be 'all' or different heads of 0..{n_heads - 1}, got {heads!r}"
        )
    return chosen


def _checked(weights: npt.ArrayLike, what: str) -> FloatArray:
    matrix: FloatArray = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(matrix).all():
        bad = int(np.count_nonzero(~np.isfinite(matrix)))
        raise AttentionError(
            f"the {what} holds {bad} values that are not finite; the model probably overflowed: "
            "load it in float32 or bfloat16"
        )
    return matrix
