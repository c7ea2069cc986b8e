"""Grad-ECLIP for decoders, with layers weighted without learning anything (MMEL).

1. In each layer l, for each head h and predicting row r: g = ∂s/∂O_rh, the gradient at the head's
   output O = A V (channel importance), and the values v_ih.
2. Attention is sparse, so its place is taken by a loosened weight: λ_i = cos(query_r, key_i),
   stretched to [0, 1] over the positions that row r can see, the frame left out (``loosened=False``
   leaves λ out altogether).
3. E^l_i = Σ_r Σ_h λ_i (g · v_i).
4. Layers are joined: each map is divided by its largest absolute value and weighted by how much the
   layer's attention moves the score to first order, w_l = Σ_r Σ_h |g · O_rh|, with Σ_l w_l = 1
   (``layer_weights="contribution"``), or equally (``"uniform"``); ``"sum"`` adds the raw maps.
5. The scores are the positive part of the sum.

``layers="last"`` is Grad-ECLIP as published for images, ``layer_weights="sum"`` as published for
text. Since g · v_i is the gradient of the score with respect to the attention weight A_ri, the map
is "gradient x attention" with λ in the place of A; arXiv:2605.12952 shows this equivalence, and
warns that a map with other weights than the model's own explains another model. Read it so.

Checked: Grad-ECLIP against its published code, where the heads are taken together as one head of
full width (there that is another function than the model computes, here heads are kept), queries
and keys are compared by cosine and stretched, and the map is rectified last. Of MMEL the abstract
alone could be found: Grad-ECLIP maps of several layers joined with learnable weights for layers and
a module of semantic relations between regions. We take over the joining of layers with weights that
need no training; their form, and leaving out the module, are our reading.

References
----------
C. Zhao, K. Wang, X. Zeng, R. Zhao, A. B. Chan, "Gradient-based Visual Explanation for
Transformer-based CLIP", ICML 2024; C. Zhao, K. Wang, J. H. Hsiao, A. B. Chan, "Grad-ECLIP:
Gradient-based Visual and Textual Explanations for CLIP", 2025, arXiv:2502.18816.
"Multi-Modal Interpretability for Enhanced Localization in Vision-Language Models" (MMEL), 2025,
arXiv:2509.15243.
Y. Cui, X. Fan, "Debunking Grad-ECLIP", 2026, arXiv:2605.12952.
"""

from __future__ import annotations

import numpy as np

from causal_lvlm.arrays import BoolArray, Float32Array, FloatArray
from causal_lvlm.attribution.info import ONE_BACKWARD, MethodInfo, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.attribution.weights import check_finite, target_rows
from causal_lvlm.checks import check_choice
from causal_lvlm.protocols import LayerGradientLike, TraceLike
from causal_lvlm.results import LayerTensors
from causal_lvlm.tokens import Target

__all__ = ["TABLE", "mmel"]


def mmel(
    trace: TraceLike,
    target: Target,
    *,
    layers: str = "all",
    layer_weights: str = "contribution",
    loosened: bool = True,
    score: str = "logit",
    against: int | str | None = None,
) -> Scores:
    """Score positions by values weighted with gradients and loosened attention, over layers.

    Parameters
    ----------
    trace : Trace
    target : Target
    layers : {"all", "last"}
        All layers joined, or the last one alone (Grad-ECLIP).
    layer_weights : {"contribution", "uniform", "sum"}
        How layers are joined, see the module's text.
    loosened : bool
        Weight positions by the stretched cosine of query and key.
    score : {"logit", "log_prob", "prob"}
        What is differentiated.
    against : int or str, optional
        Token whose score at the first predicting row is subtracted.

    Returns
    -------
    Scores
        Not negative; zero in the frame and where the predicting rows cannot look.
        ``parameters["weights"]`` are the weights of the layers used, first layer first.

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    ValueError
        If an option is unknown.
    """
    check_choice("layers", layers, ("all", "last"))
    check_choice("layer_weights", layer_weights, ("contribution", "uniform", "sum"))
    rows = target_rows(target, "predictor")
    candidate = trace.layout.modality != "special"
    backward = trace.backward(target, score=score, against=against)
    maps: list[FloatArray] = []
    weights: list[float] = []
    for layer, tensors in zip(backward.language(), backward.tensors(), strict=True):
        found = np.zeros(len(trace.layout))
        for row in rows:
            found += _row_map(layer, tensors, row, candidate, loosened)
        check_finite(found, f"weighted values of layer {layer.layer}")
        maps.append(found)
        product = tensors.output_gradient[:, rows] * tensors.output[:, rows]  # (H, rows, d)
        weights.append(float(np.abs(product.sum(axis=-1, dtype=np.float64)).sum()))
        if layers == "last":
            break
    joined, shares = _joined(maps, weights, layer_weights if layers == "all" else "sum")
    parameters = {
        "layers": layers,
        "layer_weights": layer_weights,
        "loosened": loosened,
        "score": score,
        "against": against,
        "weights": shares[::-1],
    }
    return Scores(np.maximum(joined, 0.0), parameters, model_runs=1, backward_passes=1)


def _row_map(
    layer: LayerGradientLike,
    tensors: LayerTensors,
    row: int,
    candidate: BoolArray,
    loosened: bool,
) -> FloatArray:
    """Return Σ_h λ_i (g · v_i) for one predicting row; g · v_i is the gradient of A[row, i]."""
    values = np.zeros(len(candidate))
    for head, (attention, gradient) in enumerate(zip(layer.attention, layer.gradient, strict=True)):
        visible = np.flatnonzero(candidate & (attention[row] != 0))
        if not len(visible):
            continue
        slope = gradient[row, visible].astype(np.float64)
        if loosened:
            slope = slope * _stretched_cosine(tensors.query[head, row], tensors.key[head, visible])
        values[visible] += slope
    return values


def _stretched_cosine(query: Float32Array, keys: Float32Array) -> FloatArray:
    """Return cos(query, key_i) moved and scaled to fill [0, 1]; 1 where all are equal."""
    wide, one = keys.astype(np.float64), query.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(one)
    cosine = wide @ one / np.where(norms == 0, 1.0, norms)
    low, high = float(cosine.min()), float(cosine.max())
    if high <= low:
        return np.ones(len(keys))
    stretched: FloatArray = (cosine - low) / (high - low)
    return stretched


def _joined(
    maps: list[FloatArray], contributions: list[float], how: str
) -> tuple[FloatArray, list[float]]:
    """Return the weighted sum of maps, and the weights."""
    if how == "sum":
        return np.sum(maps, axis=0), [1.0] * len(maps)
    total = sum(contributions)
    if how == "uniform" or total == 0:
        shares = [1.0 / len(maps)] * len(maps)
    else:
        shares = [value / total for value in contributions]
    scaled = [found / (np.abs(found).max() or 1.0) for found in maps]
    joined: FloatArray = np.sum([s * m for s, m in zip(shares, scaled, strict=True)], axis=0)
    return joined, shares


TABLE: Table = (
    (
        mmel,
        MethodInfo(
            "mmel",
            ("grad_eclip",),
            "gradient",
            "values weighted by gradient and by cosine of query and key, layers weighted",
            ONE_BACKWARD,
            reference="Zhao et al. 2025, arXiv:2502.18816; MMEL 2025, arXiv:2509.15243",
        ),
    ),
)
