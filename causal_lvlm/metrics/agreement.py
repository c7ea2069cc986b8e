"""How far attributions agree with each other. Agreement is no evidence of faithfulness.

The measures are in `causal_lvlm.metrics.ranks`; here they are metrics of one map against others
(`kendall`, `spearman`, `top_k_jaccard`, `rbo`) and matrices of all pairs (`agreement_matrix`).

Two methods that share a fault agree, and two faithful ones may differ where a model has several
reasons for the same answer. Neely, Schouten, Bleeker, Lucic ("A Song of (Dis)agreement", 2022,
arXiv 2205.04559; its abstract was checked) found that none of the methods tested on a transformer
correlates strongly with another, and question such correlation as a measure of validity. Every
result of this module carries that `CAUTION`; use agreement to see *where* methods differ, and the
faithfulness metrics to see which one to believe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from causal_lvlm.arrays import FloatArray, frozen
from causal_lvlm.checks import check_choice
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo
from causal_lvlm.metrics.ranks import (
    kendall_tau,
    rank_biased_overlap,
    spearman_rho,
    top_k_overlap,
)
from causal_lvlm.storage import to_jsonable

__all__ = ["CAUTION", "MEASURES", "METRICS", "AgreementMatrix", "agreement_matrix"]

CAUTION = (
    "Agreement between methods is no evidence that either is faithful to the model "
    "(Neely et al. 2022, A Song of (Dis)agreement)."
)


def _jaccard_default(first: npt.ArrayLike, second: npt.ArrayLike, k: int | None = None) -> float:
    size = len(np.asarray(first))
    return top_k_overlap(first, second, _default_k(size) if k is None else k) if size else math.nan


def _default_k(n_units: int) -> int:
    """Return a tenth of the units, at least one."""
    return max(1, round(0.1 * n_units))


MEASURES: dict[str, Callable[..., float]] = {
    "kendall": kendall_tau,
    "spearman": spearman_rho,
    "top_k_jaccard": _jaccard_default,
    "rbo": rank_biased_overlap,
}


@dataclass(frozen=True, eq=False)
class AgreementMatrix:
    """Agreement of every pair of methods on the same units.

    Attributes
    ----------
    names : tuple of str, length M
    values : ndarray of float64, shape (M, M)
        Symmetric; NaN where a measure has no value (a constant map).
    measure : str
    parameters : dict
    caution : str
        What such numbers do not say.
    """

    names: tuple[str, ...]
    values: FloatArray
    measure: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    caution: str = CAUTION

    def __post_init__(self) -> None:
        """Freeze the values."""
        object.__setattr__(self, "values", frozen(self.values, np.float64))

    def mean(self) -> float:
        """Return the mean over pairs of different methods that have a value; NaN if none has."""
        pairs = self.values[np.triu_indices(len(self.names), 1)]
        known = pairs[~np.isnan(pairs)]
        return float(known.mean()) if len(known) else math.nan

    def table(self, digits: int = 2) -> str:
        """Return a markdown table with the caution below it."""
        lines = [
            f"| {self.measure} | " + " | ".join(self.names) + " |",
            "|---|" + "---:|" * len(self.names),
        ]
        for name, row in zip(self.names, self.values, strict=True):
            cells = ["–" if math.isnan(v) else f"{v:.{digits}f}" for v in row]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", self.caution])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values; NaN becomes None."""
        plain: dict[str, Any] = to_jsonable(
            {
                "names": self.names,
                "values": self.values,
                "measure": self.measure,
                "parameters": self.parameters,
                "caution": self.caution,
            }
        )
        return plain


def agreement_matrix(
    scores: Mapping[str, npt.ArrayLike], measure: str = "kendall", **options: Any
) -> AgreementMatrix:
    """Compare every pair of methods.

    Parameters
    ----------
    scores : mapping of str to array_like of shape (U,)
        One number per unit from each method.
    measure : {"kendall", "spearman", "top_k_jaccard", "rbo"}
    **options
        ``k`` of ``top_k_jaccard`` (a tenth of the units by default), ``p`` and ``depth`` of
        ``rbo``.

    Returns
    -------
    AgreementMatrix

    Raises
    ------
    ValueError
        If the measure is unknown, or the methods were not scored on the same units.
    """
    check_choice("measure", measure, tuple(MEASURES))
    names = tuple(scores)
    values = np.empty((len(names), len(names)))
    for i, one in enumerate(names):
        for j, other in enumerate(names[: i + 1]):
            found = MEASURES[measure](scores[one], scores[other], **options)
            values[i, j] = values[j, i] = found
    return AgreementMatrix(names, values, measure, dict(options))


def kendall(case: Case, scores: FloatArray, *, others: Mapping[str, npt.ArrayLike]) -> Measured:
    """Mean tau-b of one map with each of the others; see `kendall_tau` and `CAUTION`."""
    return _with_others(case, scores, others, "kendall", {})


def spearman(case: Case, scores: FloatArray, *, others: Mapping[str, npt.ArrayLike]) -> Measured:
    """Mean rho of one map with each of the others; see `spearman_rho` and `CAUTION`."""
    return _with_others(case, scores, others, "spearman", {})


def top_k_jaccard(
    case: Case,
    scores: FloatArray,
    *,
    others: Mapping[str, npt.ArrayLike],
    k: int | None = None,
) -> Measured:
    """Mean Jaccard index of the k highest units with those of each of the others.

    Parameters
    ----------
    case : Case
    scores : ndarray of float64, shape (U,)
    others : mapping of str to array_like of shape (U,)
    k : int, optional
        By default a tenth of the units, at least one.

    Returns
    -------
    Measured
        ``detail["tied_at_cut"]`` names the maps whose k-th and next value are equal, so that the
        index decided.
    """
    size = _default_k(case.n_units) if k is None else k
    found = _with_others(case, scores, others, "top_k_jaccard", {"k": size})
    every = {"this": scores, **others}
    tied = [name for name, values in every.items() if _tied_at(np.asarray(values), size)]
    found.detail["tied_at_cut"] = tied
    return found


def rbo(
    case: Case,
    scores: FloatArray,
    *,
    others: Mapping[str, npt.ArrayLike],
    p: float = 0.9,
    depth: int | None = None,
) -> Measured:
    """Mean rank-biased overlap with each of the others; see `rank_biased_overlap`, `CAUTION`."""
    return _with_others(case, scores, others, "rbo", {"p": p, "depth": depth})


def _with_others(
    case: Case,
    scores: FloatArray,
    others: Mapping[str, npt.ArrayLike],
    measure: str,
    options: dict[str, Any],
) -> Measured:
    own = case.scores(scores)
    each = {
        name: MEASURES[measure](own, case.scores(values), **options)
        for name, values in others.items()
    }
    known = [value for value in each.values() if not math.isnan(value)]
    detail: dict[str, Any] = {"each": each, "caution": CAUTION, **options}
    if not known:
        detail["undefined"] = (
            "there is no other map to compare with" if not others else "a map is constant"
        )
        return Measured(None, detail)
    return Measured(float(np.mean(known)), detail)


def _tied_at(values: FloatArray, k: int) -> bool:
    ordered = np.sort(values)[::-1]
    return k < len(ordered) and bool(ordered[k - 1] == ordered[k])


METRICS = (
    (
        kendall,
        MetricInfo(
            "kendall", "agreement", None, "other",
            "Kendall's tau-b with other maps; no evidence of faithfulness",
            "Kendall 1945; caution: Neely et al. 2022, arXiv 2205.04559",
        ),
    ),
    (
        spearman,
        MetricInfo(
            "spearman", "agreement", None, "other",
            "Spearman's rho with other maps; no evidence of faithfulness",
            "Spearman 1904; caution: Neely et al. 2022, arXiv 2205.04559",
        ),
    ),
    (
        top_k_jaccard,
        MetricInfo(
            "top_k_jaccard", "agreement", None, "other",
            "Jaccard index of the k highest units with those of other maps",
            "Jaccard 1901; caution: Neely et al. 2022, arXiv 2205.04559",
        ),
    ),
    (
        rbo,
        MetricInfo(
            "rbo", "agreement", None, "other",
            "rank-biased overlap (extrapolated, expected over ties) with other maps",
            "Webber, Moffat, Zobel 2010, eq. 32; ties: Corsi & Urbano 2024, RBO^a",
        ),
    ),
)  # fmt: skip
