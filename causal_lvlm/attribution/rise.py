"""RISE for tokens: the mean score of random masks in which a unit is visible.

1. Draw N masks. Text units are visible independently with probability p. For each image grid, draw
   coarse nodes, (s + 1) x (s + 1), each 1 with probability p; enlarge them bilinearly to the grid
   after a random shift of less than one coarse cell; a unit's value m is the mean over its cells.
2. A token cannot be half there, as a pixel can, so the enlarged mask is made binary: a unit is
   visible with probability m (``binarise="sample"``; then every unit is visible with probability
   exactly p, and neighbours together), or where m > 1/2 (``"threshold"``: blobs with sharp edges).
3. f_i = score of the target under mask i; a unit's score is the mean of f_i M_i / E[M],
   which estimates E[f | the unit is visible]; its standard error is that of a mean.

With ``centred=True`` the mean of f is subtracted first. That removes the same amount from every
unit in expectation, and with it the noise that the plain estimator owes to units being visible more
or less often than expected by chance: an estimator of Cov(f, M) / E[M], not the published one.

References
----------
V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
Models", BMVC 2018, arXiv:1806.07421, section 3. The estimator and the way masks are made were
checked against its derivation as others retell it and the authors' program, not the paper; p = 0.5
and a 7 x 7 grid are theirs, their 4 000 to 8 000 masks are for pixels.
"""

from __future__ import annotations

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray
from causal_lvlm.asker import Asker
from causal_lvlm.attribution.info import MethodInfo, Progress, Table
from causal_lvlm.attribution.objective import VisibleSets
from causal_lvlm.attribution.result import Scores, spread
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, TokenLayout, Units

__all__ = ["TABLE", "draw_masks", "rise"]

# Masks between two calls of `progress`; the model's own batches lie inside.
_CHUNK = 256
_LARGEST_GRID = 7


def rise(
    trace: TraceLike,
    target: Target,
    *,
    units: Units,
    n_masks: int = 500,
    keep_share: float = 0.5,
    grid: int | None = None,
    binarise: str = "sample",
    centred: bool = False,
    score: str = "prob",
    against: int | str | None = None,
    seed: int = 0,
    masking: str = "remove",
    backend: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score each unit by the mean score of random masks in which it is visible.

    Parameters
    ----------
    trace : Trace
    target : Target
    units : Units
    n_masks : int
        N, at least 2.
    keep_share : float
        p, the probability of being visible, between 0 and 1.
    grid : int, optional
        s, the number of coarse cells along each side. By default half the side of the image grid,
        at most 7. As large as the side and larger makes neighbours nearly independent.
    binarise : {"sample", "threshold"}
        How the enlarged mask decides which unit is visible, see the module's text.
    centred : bool
        Subtract the mean score of all masks first.
    score, against
        What is averaged; see `VisibleSets`.
    seed : int
    masking, backend, batch_size
        As in `Trace.evaluate`.
    progress : callable, optional
        Called with (stage, masks done, masks).

    Returns
    -------
    Scores
        Its standard error is that of the units' scores, divided among their positions likewise.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """
    whole_number("n_masks", n_masks, 2)
    check_choice("binarise", binarise, ("sample", "threshold"))
    if not 0.0 < keep_share < 1.0:
        raise ValueError(f"keep_share must lie between 0 and 1, got {keep_share}")
    if grid is not None:
        whole_number("grid", grid, 1)
    rng = np.random.default_rng(seed)
    masks = draw_masks(trace.layout, units, n_masks, rng, keep_share, grid, binarise)
    asker = Asker(
        trace, target, units, masking=masking, backend=backend, against=against,
        batch_size=batch_size,
    )  # fmt: skip
    sets = VisibleSets(asker, score)
    found = np.empty(n_masks)
    for start in range(0, n_masks, _CHUNK):
        if progress is not None:
            progress("rise", start, n_masks)
        found[start : start + _CHUNK] = sets.values(masks[start : start + _CHUNK])
    if progress is not None:
        progress("rise", n_masks, n_masks)
    expected = np.full(len(units), keep_share)
    if binarise == "threshold":  # how often m > 1/2 is known by counting only
        expected = np.maximum(masks.mean(axis=0), 1.0 / n_masks)
    values, errors = estimate(found, masks, expected, centred)
    n_positions = len(trace.layout)
    parameters = {
        "n_masks": n_masks,
        "keep_share": keep_share,
        "grid": grid,
        "binarise": binarise,
        "centred": centred,
        "score": score,
        "against": against,
        "seed": seed,
        "masking": masking,
    }
    return Scores(
        spread(values, units, n_positions),
        parameters,
        model_runs=asker.runs,
        standard_error=spread(errors, units, n_positions),
        notes=(f"mean standard error of a unit {errors.mean():.3g}",) if len(errors) else (),
    )


def estimate(
    scores: FloatArray, masks: BoolArray, expected: FloatArray, centred: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the RISE score of each unit and its standard error.

    Parameters
    ----------
    scores : ndarray of float64, shape (N,)
    masks : ndarray of bool, shape (N, U)
    expected : ndarray of float64, shape (U,)
        E[M].
    centred : bool

    Returns
    -------
    values, standard_errors : ndarray of float64, shape (U,)
    """
    weights = scores - scores.mean() if centred else scores
    products = weights[:, None] * masks / expected
    errors = products.std(axis=0, ddof=1) / np.sqrt(len(scores))
    return products.mean(axis=0), np.asarray(errors)


def draw_masks(
    layout: TokenLayout,
    units: Units,
    n_masks: int,
    rng: np.random.Generator,
    keep_share: float = 0.5,
    grid: int | None = None,
    binarise: str = "sample",
) -> BoolArray:
    """Draw sets of visible units: image units by coarse grids, the others one by one.

    Parameters
    ----------
    layout : TokenLayout
    units : Units
    n_masks : int
    rng : Generator
    keep_share, grid, binarise
        As in `rise`.

    Returns
    -------
    ndarray of bool, shape (n_masks, U)
    """
    # Every position has a value between 0 and 1; outside the grids it is 0 or 1 by itself.
    field = (rng.random((n_masks, len(layout))) < keep_share).astype(np.float64)
    for one in layout.grids:
        side = min(_LARGEST_GRID, -(-max(one.rows, one.cols) // 2)) if grid is None else grid
        field[:, one.positions] = _enlarged(one.rows, one.cols, side, n_masks, rng, keep_share)
    unit_values = np.empty((n_masks, len(units)))
    for unit, members in enumerate(units.members):
        on_grid = layout.patch_cell(members[0]) is not None
        # A word of several tokens is visible as its first token is, or hidden as one.
        chosen = list(members) if on_grid else [members[0]]
        unit_values[:, unit] = field[:, chosen].mean(axis=1)
    if binarise == "threshold":
        return np.asarray(unit_values > 0.5)
    return np.asarray(rng.random(unit_values.shape) < unit_values)


def _enlarged(
    rows: int, cols: int, side: int, n_masks: int, rng: np.random.Generator, keep_share: float
) -> FloatArray:
    """Return coarse random nodes enlarged to a grid of cells, float64 (n_masks, rows * cols).

    Each value is a weighted mean of nodes with weights that do not depend on them, so that its
    expectation is `keep_share`, at the border as inside.
    """
    nodes = (rng.random((n_masks, side + 1, side + 1)) < keep_share).astype(np.float64)
    shift = rng.random((n_masks, 2))
    down = _interpolation(rows, side, shift[:, 0])
    right = _interpolation(cols, side, shift[:, 1])
    field = np.einsum("nri,nij,ncj->nrc", down, nodes, right, optimize=True)
    return np.asarray(field.reshape(n_masks, rows * cols))


def _interpolation(cells: int, side: int, shift: FloatArray) -> FloatArray:
    """Return weights of side + 1 nodes for the centre of each cell, float64 (N, cells, nodes)."""
    centres = (np.arange(cells) + 0.5) * (side / cells) - 0.5
    where = np.clip(centres[None, :] + shift[:, None], 0.0, side)
    return np.asarray(np.clip(1.0 - np.abs(where[:, :, None] - np.arange(side + 1)), 0.0, None))


TABLE: Table = (
    (
        rise,
        MethodInfo(
            "rise",
            (),
            "perturbation",
            "mean score of random masks in which the unit is visible, with its standard error",
            "n_masks forwards",
            needs=("units",),
            reference="Petsiuk et al. 2018, arXiv:1806.07421",
        ),
    ),
)
