"""What the model's head reads at other positions: logit lens and Token Activation Map (TAM).

Both ask one question of one forward pass: how strongly does the head, applied to the hidden state
of position n, speak for the target's token y? That needs no gradient and no masking; it also is no
measurement of what would change if n were gone.

TAM, for one target token y at position p:

1. Activations a_n = (logit of y at n)⁺ at the image positions, and w_i = (logit of y at i)⁺ at the
   text before p; a token of the prompt is read at its own position, a generated one at the row
   that predicted it.
2. Interference of the context (estimated causal inference): b = Σ_i w_i a⁽ⁱ⁾ / Σ_i w_i, where a⁽ⁱ⁾
   is the same map for the token at i, over the text tokens i before p whose text is not y's. With
   κ = argmin ‖a - κ b‖² = (a·b) / (b·b), the map is (a - κ b)⁺.
3. Map and text activations are scaled together to 0..1 (smallest to largest).
4. Rank-Gaussian filter on each grid (each image, each tile): the nine values of a 3 x 3 window
   (mirrored at the border) in ascending order are weighted by exp(-r² / (2 (σ/μ)²)), r = -4..4 the
   distance from the middle rank, μ and σ their mean and standard deviation, and summed; a window
   whose mean is 0 gives 0, one without spread its value.

Checked against the authors' released code (filter and κ also number by number). Differences: that
code maps the first prompt token by its greedy prediction in place of its own id; a window without
spread is 0/0 there; maps stay floating-point numbers instead of 0..255. The maps of a target of
several tokens are averaged here.

References
----------
nostalgebraist, "interpreting GPT: the logit lens", 2020. Y. Li et al., "Token Activation Map to
Visually Explain Multimodal LLMs", ICCV 2025, arXiv:2506.23270.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.info import ONE_FORWARD, MethodInfo, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.attribution.weights import check_finite
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import ImageGrid, Target

__all__ = ["TABLE", "logit_lens", "rank_gaussian", "tam"]

_WINDOW = 3


def logit_lens(
    trace: TraceLike, target: Target, *, layer: int = -1, against: int | str | None = None
) -> Scores:
    """Score each position by the target's logit there.

    Parameters
    ----------
    trace : Trace
    target : Target
    layer : int
        Which decoder layer's output is read, negative from the end; the model's own final norm and
        head read it.
    against : int or str, optional
        A token whose logit is subtracted.

    Returns
    -------
    Scores
        Mean over the target's tokens; may be negative.

    Raises
    ------
    AttentionError
        If a logit is not finite.
    IndexError
        If there is no such layer.
    """
    positions = np.arange(target.start)
    ids = [int(i) for i in target.token_ids]
    if against is not None:
        ids.append(int(trace.token_id(against)))
    logits = _read(trace, positions, ids, layer)
    values = np.zeros(len(trace.layout))
    values[positions] = logits[:, : len(target.token_ids)].mean(axis=1)
    if against is not None:
        values[positions] -= logits[:, -1]
    return Scores(values, {"layer": layer, "against": against})


def tam(
    trace: TraceLike,
    target: Target,
    *,
    layer: int = -1,
    interference: bool = True,
    denoise: bool = True,
) -> Scores:
    """Score positions by the Token Activation Map of the target.

    Parameters
    ----------
    trace : Trace
    target : Target
    layer : int
        Which decoder layer's output is read; the published map reads the last.
    interference : bool
        Whether the context's share is taken off (step 2 of the module's text).
    denoise : bool
        Whether grids are filtered (step 4).

    Returns
    -------
    Scores
        From 0 to 1. Positions of the frame get nothing. ``parameters["kappa"]`` holds κ for each
        target token.

    Raises
    ------
    AttentionError
        If a logit is not finite.
    IndexError
        If there is no such layer.
    """
    layout = trace.layout
    image = layout.positions("image")
    image = image[image < target.start]
    text = layout.positions("prompt", "generated")
    text = text[text < target.positions[-1]]
    # A generated token is read where it was predicted, so rows before the text are wanted too.
    rows = np.where(text >= layout.n_prompt, text - 1, text)
    ids = np.unique([*layout.token_ids[text].tolist(), *map(int, target.token_ids)])
    where = np.unique([*image.tolist(), *rows.tolist()]).astype(np.int64)
    logits = np.maximum(_read(trace, where, ids.tolist(), layer), 0.0)
    column = {int(token): k for k, token in enumerate(ids)}
    on_image = logits[np.searchsorted(where, image)]  # (n_image, n_ids)
    on_text = logits[np.searchsorted(where, rows)]  # (n_text, n_ids)
    of_text = [column[int(token)] for token in layout.token_ids[text]]

    values = np.zeros(len(layout))
    kappas: list[float] = []
    for position, token in zip(target.positions, target.token_ids, strict=True):
        earlier = text < position
        activation = on_image[:, column[int(token)]]
        weights = np.where(earlier, on_text[:, column[int(token)]], 0.0)
        others = np.array([layout.tokens[p] != layout.tokens[position] for p in text], dtype=bool)
        kappa = 0.0
        if interference:
            context = on_image[:, of_text] @ (weights * others)
            context /= (weights * others).sum() + 1e-8
            kappa = _least_squares(activation, context)
            activation = np.maximum(activation - kappa * context, 0.0)
        kappas.append(kappa)
        map_, shown = _to_unit_range(activation, weights[earlier])
        one = np.zeros(len(layout))
        one[image], one[text[earlier]] = map_, shown
        for grid in layout.grids if denoise else ():
            if (grid.positions < target.start).all():
                one[grid.positions] = _filtered(one, grid)
        values += one / len(target.token_ids)
    parameters = {
        "layer": layer,
        "interference": interference,
        "denoise": denoise,
        "kappa": kappas,
    }
    notes = () if len(image) else ("there is no image: only text activations are scored",)
    return Scores(values, parameters, notes=notes)


def rank_gaussian(values: FloatArray) -> FloatArray:
    """Smooth a picture by the rank-Gaussian filter (step 4 of the module's text).

    Parameters
    ----------
    values : ndarray of float64, shape (rows, cols)
        Not negative.

    Returns
    -------
    ndarray of float64, shape (rows, cols)
    """
    pad = _WINDOW // 2
    padded = values
    for axis, size in enumerate(values.shape):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (pad, pad)
        # A single row has nothing to be mirrored.
        padded = np.pad(padded, widths, mode="reflect" if size > 1 else "edge")
    windows = sliding_window_view(padded, (_WINDOW, _WINDOW)).reshape(*values.shape, -1)
    windows = np.sort(windows, axis=-1)
    mean = windows.mean(axis=-1)
    spread = windows.std(axis=-1)
    usable = (mean > 0) & (spread > 0)
    ratio = np.where(usable, spread, 1.0) / np.where(usable, mean, 1.0)
    rank = np.arange(_WINDOW**2) - _WINDOW**2 // 2
    kernel = np.exp(-(rank**2) / (2 * ratio[..., None] ** 2))
    kernel /= kernel.sum(axis=-1, keepdims=True)
    smooth = (windows * kernel).sum(axis=-1)
    return np.asarray(np.where(usable, smooth, np.where(mean > 0, mean, 0.0)))


def _read(
    trace: TraceLike, positions: Sequence[int] | Any, ids: Sequence[int], layer: int
) -> FloatArray:
    chosen = [int(p) for p in positions]
    if not chosen:
        return np.zeros((0, len(ids)))
    logits = np.asarray(trace.lens(chosen, list(ids), layer), dtype=np.float64)
    check_finite(logits, f"logits read after layer {layer}")
    return logits


def _least_squares(map_: FloatArray, context: FloatArray) -> float:
    power = float(context @ context)
    return float(map_ @ context) / power if power > 0 else 0.0


def _to_unit_range(map_: FloatArray, text: FloatArray) -> tuple[FloatArray, FloatArray]:
    both = np.concatenate([map_, text])
    if not len(both):
        return map_, text
    low, high = both.min(), both.max()
    scale = high - low
    if scale == 0:
        return np.zeros_like(map_), np.zeros_like(text)
    return (map_ - low) / scale, (text - low) / scale


def _filtered(values: FloatArray, grid: ImageGrid) -> FloatArray:
    return rank_gaussian(values[grid.positions].reshape(grid.rows, grid.cols)).ravel()


TABLE: Table = (
    (
        logit_lens,
        MethodInfo(
            "logit_lens",
            ("lens",),
            "lens",
            "the target's logit as the model's head reads it at each position",
            ONE_FORWARD,
            reference="nostalgebraist 2020",
        ),
    ),
    (
        tam,
        MethodInfo(
            "tam",
            ("token_activation_map",),
            "lens",
            "Token Activation Map: logit lens less the context's share, smoothed by rank",
            ONE_FORWARD,
            needs=("image",),
            reference="Li et al. 2025, arXiv:2506.23270",
        ),
    ),
)
