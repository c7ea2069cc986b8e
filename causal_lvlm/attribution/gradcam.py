"""Grad-CAM for decoders, in the two conventions that go by this name, and LLaVA-CAM.

``grad_cam`` (attention convention; the baseline "GradCAM" of Chefer, Gur & Wolf 2021)
    1. One layer's attention A (H, T, T) and the gradient G of the target's score.
    2. α_h = mean of G over the pairs that may see each other (elsewhere G is a number, since
       G = dO V^T, but the model has no connection).
    3. The scores are the predicting row of (mean over heads of α_h A_h)⁺.
``feature_grad_cam`` (feature convention, Selvaraju et al. 2017, equations 1 and 2)
    1. Features F (T, D) leaving a decoder layer, and their gradient.
    2. α_d = mean of ∂s/∂F_nd over the map's positions; cam_n = (Σ_d α_d F_nd)⁺. The map of an image
       model is its image; here image tokens are one map and text tokens another, each with its own
       α, and the frame belongs to none.
    3. What leaves the last layer is read at the predicting rows alone: its gradient is zero
       everywhere else. The default is the layer before it.
``llava_cam`` (Zhang et al. 2024)
    The same averaged over noisy copies of the picture: 50 copies, noise of standard deviation 0.1
    of the pixels' range, negative gradients set to zero before they are averaged, each map divided
    by its maximum before maps are.

LLaVA-CAM was checked against its published code (50 samples, 0.1 on pixels in [0, 1], rectified
gradients, maps normalised each): the code hooks a normalisation inside the layer where we read the
layer's output, sets values below half the maximum to zero for display, which we do not, and shows
image tokens alone, where we score text as well. The noise-free map is not one of the copies.

References
----------
R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, arXiv:1610.02391.
H. Chefer, S. Gur, L. Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers", ICCV 2021, arXiv:2103.15679, baselines of section 4.
X. Zhang et al., "From Redundancy to Relevance: Information Flow in LVLMs Across Reasoning Tasks",
2024, arXiv:2406.06579.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from causal_lvlm.arrays import Float32Array, FloatArray
from causal_lvlm.attribution.info import ONE_BACKWARD, MethodInfo, Progress, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.attribution.weights import check_finite, target_rows
from causal_lvlm.checks import whole_number
from causal_lvlm.errors import UnsupportedModelError, quoted
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, TokenLayout

__all__ = ["TABLE", "feature_grad_cam", "grad_cam", "llava_cam", "layer_number"]


def layer_number(layer: Any, n_layers: int, kinds: Sequence[str] = ()) -> int:
    """Return a layer counted from 0; negative numbers count from the end.

    Parameters
    ----------
    layer : int or "global"
        ``"global"`` is the last layer that looks at the whole sequence; where all look through
        windows, the last one.
    n_layers : int
    kinds : sequence of str
        What each layer looks at, see `Trace.attention_kinds`; without it every layer is global.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    if isinstance(layer, str) and layer == "global":
        full = [number for number, kind in enumerate(kinds) if kind == "full"]
        return full[-1] if full else n_layers - 1
    try:
        number = operator.index(layer)
    except TypeError:
        number = n_layers
    if isinstance(layer, (bool, np.bool_)) or not -n_layers <= number < n_layers:
        raise ValueError(
            f"layer must be 'global' or a number in {-n_layers}..{n_layers - 1} (the model has "
            f"{n_layers} layers), got {quoted(layer)}"
        )
    return number % n_layers


def grad_cam(
    trace: TraceLike,
    target: Target,
    *,
    layer: int | str = -1,
    score: str = "logit",
    against: int | str | None = None,
) -> Scores:
    """Score positions by the predicting row of gradient-weighted heads (attention convention).

    Parameters
    ----------
    trace : Trace
    target : Target
    layer : int or "global"
        Layer of the language model, negative from the end; or the last one without a window.
    score : {"logit", "log_prob", "prob"}
        What is differentiated.
    against : int or str, optional
        Token whose score at the first predicting row is subtracted.

    Returns
    -------
    Scores
        Not negative; summed over the target's predicting rows.

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    ValueError
        If an option is unknown or out of range.
    """
    rows = target_rows(target, "predictor")
    layers = list(trace.backward(target, score=score, against=against).language())
    kinds = trace.attention_kinds
    chosen = layers[-1 - layer_number(layer, len(layers), kinds)]  # the last layer came first
    weights = np.empty(len(chosen.attention))
    cam = np.zeros((len(rows), len(trace.layout)))
    for head, (attention, gradient) in enumerate(
        zip(chosen.attention, chosen.gradient, strict=True)
    ):
        seen = attention != 0  # NaN counts as seen, and is found below
        weights[head] = gradient.sum(where=seen, dtype=np.float64) / max(seen.sum(), 1)
        cam += weights[head] * attention[rows]
    check_finite(cam, f"gradient-weighted attention of layer {chosen.layer}")
    values = np.maximum(cam / len(weights), 0.0).sum(axis=0)
    parameters = {"layer": int(chosen.layer), "score": score, "against": against}
    return Scores(values, parameters, model_runs=1, backward_passes=1)


def feature_grad_cam(
    trace: TraceLike,
    target: Target,
    *,
    layer: int = -2,
    rectify: bool = False,
    score: str = "logit",
    against: int | str | None = None,
) -> Scores:
    """Score positions by gradient-weighted features of a decoder layer (feature convention).

    Parameters
    ----------
    trace : Trace
    target : Target
    layer : int
        Decoder layer whose output is read, negative from the end; not the last one.
    rectify : bool
        Set negative gradients to zero before they are averaged (as LLaVA-CAM's code does).
    score : {"logit", "log_prob", "prob"}
        What is differentiated.
    against : int or str, optional
        Token whose score at the first predicting row is subtracted.

    Returns
    -------
    Scores
        Not negative; zero in the frame.

    Raises
    ------
    ValueError
        If the layer does not exist, or is the last one.
    UnsupportedModelError
        If the model has a single layer.
    """
    number = _feature_layer(trace, layer)
    features, gradient = trace.feature_gradient(target, number, score=score, against=against)
    values = _cam(features, gradient, _maps(trace.layout, target), rectify)
    parameters = {"layer": number, "rectify": rectify, "score": score, "against": against}
    return Scores(values, parameters, model_runs=1, backward_passes=1)


def llava_cam(
    trace: TraceLike,
    target: Target,
    *,
    layer: int = -2,
    n_samples: int = 50,
    sigma: float = 0.1,
    rectify: bool = True,
    score: str = "logit",
    against: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Average feature Grad-CAM over noisy copies of the picture (LLaVA-CAM).

    Parameters
    ----------
    trace : Trace
        Without a picture there is nothing to add noise to: one map is computed, and a note says so.
    target : Target
    layer, rectify, score, against
        As in `feature_grad_cam`.
    n_samples : int
        Noisy copies; each costs a forward pass through tower and language model and a backward
        pass.
    sigma : float
        Standard deviation of the noise, relative to the pixels' range.
    seed : int
        Not negative.
    progress : callable, optional
        Called as ``progress("llava_cam", copies done, n_samples)``.

    Returns
    -------
    Scores
        Mean of maps that were each divided by their maximum, with its standard error.

    Raises
    ------
    ValueError
        If an option is unknown, not positive or out of range.
    UnsupportedModelError
        If the model has a single layer.
    """
    number = _feature_layer(trace, layer)
    count = whole_number("n_samples", n_samples, 1)
    seed = whole_number("seed", seed, 0)
    if not (isinstance(sigma, (int, float)) and 0 <= sigma < math.inf):
        raise ValueError(f"sigma must be a finite number of at least 0, got {quoted(sigma)}")
    notes: tuple[str, ...] = ()
    if not trace.images:
        count, sigma = 1, 0.0
        notes = ("no picture: one map without noise",)
    maps = _maps(trace.layout, target)
    total, squares = np.zeros(len(trace.layout)), np.zeros(len(trace.layout))
    for sample in range(count):
        own = int(np.random.SeedSequence([seed, sample]).generate_state(1)[0])
        features, gradient = trace.feature_gradient(
            target, number, score=score, against=against, noise=sigma, seed=own
        )
        cam = _cam(features, gradient, maps, rectify)
        cam /= cam.max() or 1.0
        total += cam
        squares += cam**2
        if progress is not None:
            progress("llava_cam", sample + 1, count)
    mean = total / count
    error = None
    if count > 1:
        variance = np.maximum(squares / count - mean**2, 0.0) * count / (count - 1)
        error = np.sqrt(variance / count)
    parameters = {
        "layer": number,
        "n_samples": count,
        "sigma": float(sigma),
        "rectify": rectify,
        "score": score,
        "against": against,
    }
    return Scores(
        mean,
        parameters,
        model_runs=count,
        backward_passes=count,
        notes=notes,
        standard_error=error,
    )


def _feature_layer(trace: TraceLike, layer: int) -> int:
    n_layers = trace.n_layers
    if n_layers < 2:
        raise UnsupportedModelError(
            "feature Grad-CAM reads a layer before the last one, and this model has one layer; "
            "use 'grad_cam'"
        )
    number = layer_number(layer, n_layers)
    if number == n_layers - 1:
        raise ValueError(
            f"layer {layer} is the last one: what leaves it is read at the predicting rows alone, "
            f"so its gradient is zero elsewhere; allowed are 0..{n_layers - 2}"
        )
    return number


def _maps(layout: TokenLayout, target: Target) -> list[np.ndarray[Any, Any]]:
    """Return the positions of the image map and of the text map before the predicting row."""
    found = (layout.positions("image"), layout.positions("prompt", "generated"))
    return [positions[positions < target.predictor] for positions in found]


def _cam(
    features: Float32Array,
    gradient: Float32Array,
    maps: list[np.ndarray[Any, Any]],
    rectify: bool,
) -> FloatArray:
    values = np.zeros(len(features))
    for positions in maps:
        if len(positions):
            own = gradient[positions].astype(np.float64)
            alpha = (np.maximum(own, 0.0) if rectify else own).mean(axis=0)
            values[positions] = np.maximum(features[positions] @ alpha, 0.0)
    check_finite(values, "gradient-weighted features")
    return values


TABLE: Table = (
    (
        grad_cam,
        MethodInfo(
            "grad_cam",
            ("attention_grad_cam",),
            "gradient",
            "heads of one layer weighted by their mean gradient",
            ONE_BACKWARD,
            reference="Selvaraju et al. 2017, arXiv:1610.02391; as in Chefer et al. 2021",
        ),
    ),
    (
        feature_grad_cam,
        MethodInfo(
            "feature_grad_cam",
            (),
            "gradient",
            "hidden features of one layer weighted by their mean gradient",
            ONE_BACKWARD,
            reference="Selvaraju et al. 2017, arXiv:1610.02391",
        ),
    ),
    (
        llava_cam,
        MethodInfo(
            "llava_cam",
            ("smooth_grad_cam",),
            "gradient",
            "feature Grad-CAM averaged over noisy copies of the picture",
            "50 forward, 50 backward",
            reference="Zhang et al. 2024, arXiv:2406.06579",
        ),
    ),
)
