"""Relevancy: gradient-weighted attention composed over layers (Chefer et al. 2021).

1. One teacher-forced forward pass and one backward pass give every layer's attention A and the
   gradient G of the target's score with respect to it. All rows use this one gradient.
2. Rule 5: C = mean over heads of (G * A)⁺, shape (N, N), for each layer.
3. Rule 6: R ← R + C R from the first layer to the last, R starting as the identity; that is
   R = (I + C^L) ... (I + C^1).
4. Where only the row of the predicting position q is wanted it is computed from the last layer
   down, r ← r + r C with r = e_q, which needs a vector instead of a matrix.
5. The identity is taken off; equations 8 and 9 divide the rest of a row by its sum.

A target of several tokens has one predicting row per token. The backward pass starts from the sum
of their scores, and their rows are summed (after normalising, where a variant normalises).

The variants named after LVLM-Interpret follow its definitions, with one difference: there, rows of
earlier positions keep the gradient of the token that was generated when they were computed, and
the vision tower's gradients add up over tokens. Here every row uses the gradient of the explained
token, so numbers differ from that tool's for every token but the first.

==================  ============================================================================
``relevancy``       r of the language model, all positions before the target, not normalised
``relevancy-llama`` the same row, normalised
``relevancy-vit``   class-token row of R_vit, normalised; image positions only
``relevancy-all``   class-token row of R_vit · blockdiag(1, R[image, image]), normalised
``relevancy-all_v2``  class-token row of R_vit · (I + r on the class token's row and column)
``relevancy-chain`` image: Σ_p r_p R_vit[p, q]; text: r. The only one that follows the path that
                    the information took: LLaVA drops the class token, so its row is not on it,
                    and ``all`` never looks at the predicting row.
==================  ============================================================================

References
----------
H. Chefer, S. Gur, L. Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers", ICCV 2021, arXiv:2103.15679, equations 5, 6, 8, 9.
G. Ben Melech Stan et al., "LVLM-Interpret", 2024, arXiv:2404.03118.
"""

from __future__ import annotations

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.info import ONE_BACKWARD, MethodInfo, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.attribution.tower import TowerMap
from causal_lvlm.attribution.weights import target_rows
from causal_lvlm.composition import compose, relevancy_matrix
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target

__all__ = [
    "TABLE",
    "relevancy",
    "relevancy_all",
    "relevancy_all_v2",
    "relevancy_chain",
    "relevancy_llama",
    "relevancy_matrix",
    "relevancy_vit",
]


def relevancy(
    trace: TraceLike, target: Target, *, score: str = "logit", against: int | str | None = None
) -> Scores:
    """Score positions by the target's row of the language model's relevancy matrix.

    Parameters
    ----------
    trace : Trace
    target : Target
    score : {"logit", "log_prob"}
        What is differentiated.
    against : optional
        Token that is subtracted from the score, as `Trace.backward` takes it.

    Returns
    -------
    Scores
        R[q] − I[q], summed over the predicting rows q.

    Raises
    ------
    AttentionError
        If attention or its gradient holds values that are not finite.
    """
    start = _identity_rows(trace, target)
    backward = trace.backward(target, score=score, against=against)
    rows = compose(start, backward.language(), "relevancy", "language model") - start
    return _scores(rows, score, against)


def relevancy_llama(
    trace: TraceLike, target: Target, *, score: str = "logit", against: int | str | None = None
) -> Scores:
    """Score positions as `relevancy` does, each row divided by its sum (equations 8 and 9).

    Parameters, returned value and errors are those of `relevancy`. Normalising one row changes no
    order; for a target of several tokens it gives each token the same weight.
    """
    start = _identity_rows(trace, target)
    backward = trace.backward(target, score=score, against=against)
    rows = _normalised(compose(start, backward.language(), "relevancy", "language model"), start)
    return _scores(rows, score, against)


def relevancy_vit(
    trace: TraceLike, target: Target, *, score: str = "logit", against: int | str | None = None
) -> Scores:
    """Score image positions by the class token's row of the vision tower's relevancy matrix.

    Parameters are those of `relevancy`; text scores are zero.

    Raises
    ------
    UnsupportedModelError
        If the tower has no class token.
    AttentionError
        If attention or its gradient holds values that are not finite.
    """
    tower = TowerMap(trace)
    start = tower.class_row("relevancy-vit")
    backward = trace.backward(target, score=score, vision=True, against=against)
    row = _normalised(compose(start, backward.vision(), "relevancy", "vision tower"), start)
    return _scores(tower.to_positions(row), score, against)


def relevancy_all(
    trace: TraceLike, target: Target, *, score: str = "logit", against: int | str | None = None
) -> Scores:
    """Score image positions by the class token's row, the image block of R composed below R_vit.

    Parameters and errors are those of `relevancy_vit`; text scores are zero. The predicting row
    takes no part in it (offered because LVLM-Interpret shows it).
    """
    tower = TowerMap(trace)
    start = tower.class_row("relevancy-all")
    backward = trace.backward(target, score=score, vision=True, against=against)
    # With w = e_cls R_vit, row 0 of R_vit · blockdiag(1, R[image, image]) is (w_cls, w_image R).
    row = compose(start, backward.vision(), "relevancy", "vision tower")
    image = compose(tower.to_positions(row), backward.language(), "relevancy", "language model")
    composed = tower.from_positions(image)
    composed[:, tower.class_token] = row[:, tower.class_token]
    return _scores(tower.to_positions(_normalised(composed, start)), score, against)


def relevancy_all_v2(
    trace: TraceLike, target: Target, *, score: str = "logit", against: int | str | None = None
) -> Scores:
    """Score image positions by the class token's row, r put between class token and patches.

    Parameters and errors are those of `relevancy_vit`; text scores are zero.
    """
    tower = TowerMap(trace)
    start = tower.class_row("relevancy-all_v2")
    language = _identity_rows(trace, target)
    backward = trace.backward(target, score=score, vision=True, against=against)
    patches = tower.from_positions(
        compose(language, backward.language(), "relevancy", "language model")
    )
    row = compose(start, backward.vision(), "relevancy", "vision tower")
    # With w = e_cls R_vit and R starting as I + e_cls rᵀ + r e_clsᵀ, row 0 of R_vit R is
    # w + w_cls r + (w · r) e_cls; one such row per target token.
    composed = row + row[:, [tower.class_token]] * patches
    composed[:, tower.class_token] += (patches * row).sum(axis=1)
    return _scores(tower.to_positions(_normalised(composed, start)), score, against)


def relevancy_chain(
    trace: TraceLike, target: Target, *, score: str = "logit", against: int | str | None = None
) -> Scores:
    """Score image positions by Σ_p r_p R_vit[p, q] and text by r: relevancy down to the pixels.

    r is the row of `relevancy`. What reaches the class token (or another tower token without a
    position) has no place in the image and is left out of the scores.

    Parameters and errors are those of `relevancy`; towers without a class token work too.
    """
    tower = TowerMap(trace)
    start = _identity_rows(trace, target)
    backward = trace.backward(target, score=score, vision=True, against=against)
    rows = compose(start, backward.language(), "relevancy", "language model") - start
    patches = compose(tower.from_positions(rows), backward.vision(), "relevancy", "vision tower")
    rows[:, tower.image] = tower.to_positions(patches)[:, tower.image]
    return _scores(rows, score, against)


def _identity_rows(trace: TraceLike, target: Target) -> FloatArray:
    """Return e_q for each predicting row q, shape (n_target, T)."""
    rows = target_rows(target, "predictor")
    start = np.zeros((len(rows), len(trace.layout)))
    start[np.arange(len(rows)), rows] = 1.0
    return start


def _normalised(rows: FloatArray, identity: FloatArray) -> FloatArray:
    """Take the identity off and divide each row by its sum (equations 8, 9); zero rows stay."""
    rest = rows - identity
    sums = rest.sum(axis=1, keepdims=True)
    return np.asarray(rest / np.where(sums == 0, 1.0, sums))


def _scores(rows: FloatArray, score: str, against: int | str | None) -> Scores:
    """Sum the rows of the target's tokens."""
    parameters = {"score": score, "against": against}
    return Scores(rows.sum(axis=0), parameters, model_runs=1, backward_passes=1)


_CHEFER = "Chefer, Gur & Wolf 2021, arXiv:2103.15679"
_INTERPRET = "Ben Melech Stan et al. 2024, arXiv:2404.03118"

TABLE: Table = (
    (
        relevancy,
        MethodInfo(
            "relevancy",
            ("chefer",),
            "gradient",
            "gradient-weighted attention composed over the language model",
            ONE_BACKWARD,
            reference=_CHEFER,
        ),
    ),
    (
        relevancy_llama,
        MethodInfo(
            "relevancy-llama",
            ("llama",),
            "gradient",
            "the same row divided by its sum; LVLM-Interpret's 'llama'",
            ONE_BACKWARD,
            reference=_INTERPRET,
        ),
    ),
    (
        relevancy_vit,
        MethodInfo(
            "relevancy-vit",
            ("vit",),
            "gradient",
            "class-token row of the vision tower; LVLM-Interpret's 'vit'",
            ONE_BACKWARD,
            needs=("image", "class token"),
            reference=_INTERPRET,
        ),
    ),
    (
        relevancy_all,
        MethodInfo(
            "relevancy-all",
            ("all",),
            "gradient",
            "class-token row over tower and image block; LVLM-Interpret's 'all'",
            ONE_BACKWARD,
            needs=("image", "class token"),
            reference=_INTERPRET,
        ),
    ),
    (
        relevancy_all_v2,
        MethodInfo(
            "relevancy-all_v2",
            ("all_v2",),
            "gradient",
            "class-token row with the target's row put in; LVLM-Interpret's 'all_v2'",
            ONE_BACKWARD,
            needs=("image", "class token"),
            reference=_INTERPRET,
        ),
    ),
    (
        relevancy_chain,
        MethodInfo(
            "relevancy-chain",
            ("chain",),
            "gradient",
            "relevancy carried on through the vision tower to its input patches",
            ONE_BACKWARD,
            needs=("image",),
            reference=_CHEFER,
        ),
    ),
)
