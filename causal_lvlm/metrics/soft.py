"""π-Soft-NC and π-Soft-NS: soft perturbation of embeddings, at the same expected retention.

Soft metrics keep each component of a unit's embeddings with a probability that grows with its
score (sufficiency) or falls with it (comprehensiveness), and ask how far the model's next-token
distribution moves. Plain Soft-NC/NS take the scores themselves as probabilities, so that a map of
larger mean keeps more and scores better; the π-versions compare all maps at one expected share π of
what is kept.

1. Scores are brought to a in [0, 1] by their minimum and maximum (a flat map: all the same).
2. From a (NS) or 1 - a (NC), with mean m, follow retention probabilities of mean exactly π:
   r = a π / m where m >= π, else r = 1 - (1 - a)(1 - π) / (1 - m). Both are increasing and affine
   in a and stay in [0, 1]; a flat map keeps π everywhere.
3. Every component (position, dimension) of a unit is kept with probability r, else set to 0 (or to
   the baseline of the case's masking, ``pad`` or ``blur``). The uniform numbers behind it depend
   on the case's seed alone: all maps see the same.
4. H = sqrt(1 - Σ sqrt(p q)), the Hellinger distance (0 to 1) between the next-token distribution
   with everything visible and the perturbed one, averaged over the target's predicting rows.
5. H₀: the same with all units' embeddings set to it. Then, over the samples' mean,
   Soft-NS = max(0, 1 - H / H₀), that is (S - S₀) / (1 - S₀) for S = 1 - H;
   Soft-NC = H / H₀, that is comprehensiveness divided by 1 - S₀.
6. The value is the mean over the retention shares.

Both are higher for better maps. Soft-NS lies in [0, 1]. Soft-NC has no upper bound: half-replaced
embeddings may move the distribution further than replacing all of them does, several times as far
where H₀ is small. Where H₀ is almost 0 the input does not matter: undefined.

What was checked: ReAGent's published code for the normalisation (its "Hellinger" term,
Σ(√p - √q)²/√2, is neither H nor H²; H is used here), the abstract of arXiv:2601.03089 for equal
expected retention. How that paper rescales scores was not accessible; step 2 is our construction.

References
----------
Z. Zhao, N. Aletras, "Incorporating Attribution Importance for Improving Faithfulness Metrics", ACL
2023, arXiv:2305.10496.
Z. Zhao, B. Shan, "ReAGent", 2024, arXiv:2402.00794.
X. Huang, A. B. Chan, "Faithfulness Evaluation for Decoder-only LLM Attributions with Controlled
Retained Information", 2026, arXiv:2601.03089.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from causal_lvlm.arrays import BoolArray, Float32Array, FloatArray
from causal_lvlm.asker import EMBEDDING_MASKINGS
from causal_lvlm.checks import whole_number
from causal_lvlm.errors import quoted
from causal_lvlm.metrics.case import Case
from causal_lvlm.metrics.info import Measured, MetricInfo

__all__ = ["METRICS", "hellinger", "retention_probabilities", "soft_nc", "soft_ns"]

SHARES = (0.25, 0.5, 0.75)
_LEAST_DISTANCE = 1e-3  # H₀ below this: the model hardly looks at the units at all
_STREAM = 20  # so that other random choices of a case's seed are others
_CHUNK = 16  # rows whose distributions over the vocabulary are held at once


def hellinger(p: npt.ArrayLike, q: npt.ArrayLike) -> FloatArray:
    """Return the Hellinger distance along the last axis, 0 (equal) to 1 (disjoint).

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        Distributions.

    Returns
    -------
    ndarray of float64, shape (...)
        sqrt(Σ(√p - √q)² / 2), which is sqrt(1 - Σ√(pq)) for distributions and has no cancellation.
    """
    roots = np.sqrt(np.asarray(p, dtype=np.float64)) - np.sqrt(np.asarray(q, dtype=np.float64))
    return np.asarray(np.sqrt((roots**2).sum(axis=-1) / 2))


def retention_probabilities(scores: npt.ArrayLike, share: float) -> FloatArray:
    """Return probabilities in [0, 1] of mean `share` that increase affinely with the scores.

    Parameters
    ----------
    scores : array_like of float, shape (U,)
    share : float
        In (0, 1).

    Returns
    -------
    ndarray of float64, shape (U,)
    """
    values = np.asarray(scores, dtype=np.float64)
    span = float(values.max() - values.min())
    if not span > 0:
        return np.full(len(values), share)
    a = (values - values.min()) / span
    mean = float(a.mean())
    if mean >= share:
        return np.asarray(a * (share / mean))
    return np.asarray(1.0 - (1.0 - a) * ((1.0 - share) / (1.0 - mean)))


class _Probe:
    """Distances of perturbed embeddings from the plain run; the ends are asked once per case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.plain, self.baseline = case.asker.embeddings()
        self.unit_of = np.full(len(self.plain), -1, dtype=np.int64)
        for position, unit in case.units.unit_of().items():
            self.unit_of[position] = unit

    def ends(self) -> tuple[FloatArray, float]:
        """Return the plain distributions (G, V) and H₀."""
        covered = (self.unit_of >= 0)[:, None]
        rows = np.stack([self.plain, np.where(covered, self.baseline, self.plain)])
        found = self.distributions(rows)
        return found[0], float(hellinger(found[0], found[1]).mean())

    def distributions(self, rows: Float32Array) -> FloatArray:
        """Return next-token distributions (K, G, V)."""
        found = self.case.trace.evaluate_embeddings(
            rows, self.case.target, distribution=True, batch_size=self.case.asker.batch_size
        )
        self.case.asker.count(len(rows))
        return np.asarray(found.distributions, dtype=np.float64)

    def perturbed(self, keep: FloatArray, n_samples: int, stream: int) -> Iterator[Float32Array]:
        """Yield chunks (k, T, D) of embeddings whose components are kept with probability keep."""
        free = self.unit_of < 0
        chance = np.where(free, 1.0, keep[self.unit_of])[:, None]
        rng = np.random.default_rng([self.case.seed, _STREAM, stream])
        for start in range(0, n_samples, _CHUNK):
            size = min(_CHUNK, n_samples - start)
            drawn: BoolArray = rng.random((size, *self.plain.shape), dtype=np.float32) < chance
            yield np.where(drawn, self.plain, self.baseline)


def _soft(
    case: Case,
    scores: npt.ArrayLike,
    *,
    sufficiency: bool,
    n_samples: int,
    retention: Sequence[float],
) -> Measured:
    whole_number("n_samples", n_samples, 2)
    shares = tuple(float(s) for s in retention)
    if not shares or not all(0 < s < 1 for s in shares):
        raise ValueError(
            f"retention must be shares between 0 and 1, got {quoted(tuple(retention))}"
        )
    if case.masking not in EMBEDDING_MASKINGS:
        raise ValueError(
            f"soft metrics replace components of embeddings, they cannot mask by {case.masking!r}; "
            f"use case.under('zero') (or one of {EMBEDDING_MASKINGS})"
        )
    values = case.scores(scores)
    before = case.asked
    probe = _Probe(case)
    full, zero = case.remember("soft ends", probe.ends)
    detail: dict[str, Any] = {"retention": list(shares), "n_samples": n_samples, "h_zero": zero}
    if zero < _LEAST_DISTANCE:
        detail["undefined"] = f"zeroing all units moves the distribution by {zero:.3g} only"
        return Measured(None, detail, case.asked - before)
    results, errors = [], []
    for number, share in enumerate(shares):
        keep = retention_probabilities(values if sufficiency else -values, share)
        distances = np.concatenate(
            [
                hellinger(full, probe.distributions(rows)).mean(axis=1)
                for rows in probe.perturbed(keep, n_samples, number)
            ]
        )
        ratio = float(distances.mean()) / zero
        results.append(max(0.0, 1.0 - ratio) if sufficiency else ratio)
        errors.append(float(distances.std(ddof=1)) / np.sqrt(n_samples) / zero)
    detail["per_retention"] = results
    detail["standard_error"] = float(np.sqrt(np.sum(np.square(errors)))) / len(shares)
    return Measured(float(np.mean(results)), detail, case.asked - before)


def soft_ns(
    case: Case,
    scores: npt.ArrayLike,
    *,
    n_samples: int = 16,
    retention: Sequence[float] = SHARES,
) -> Measured:
    """Return π-Soft-NS: how much of the prediction survives when high scores are kept.

    Parameters
    ----------
    case : Case
        Its masking must be one that replaces embeddings; `evaluate` sees to that.
    scores : array_like of float, shape (U,)
    n_samples : int
        Random perturbations for each retention share, at least 2.
    retention : sequence of float
        Expected shares π of embedding components that are kept.

    Returns
    -------
    Measured
        Higher is better. ``detail["standard_error"]`` is that of the sampling; those of different
        maps are not independent, as all see the same random numbers.

    Raises
    ------
    ValueError
        If the scores are not one finite number per unit, or an option or the case's masking is not
        allowed.

    References
    ----------
    Zhao & Aletras 2023; Huang & Chan 2026; see the module's text.
    """
    return _soft(case, scores, sufficiency=True, n_samples=n_samples, retention=retention)


def soft_nc(
    case: Case,
    scores: npt.ArrayLike,
    *,
    n_samples: int = 16,
    retention: Sequence[float] = SHARES,
) -> Measured:
    """Return π-Soft-NC: how far the prediction moves when low scores are kept; see `soft_ns`."""
    return _soft(case, scores, sufficiency=False, n_samples=n_samples, retention=retention)


_SOURCE = "Zhao & Aletras 2023, arXiv:2305.10496; Huang & Chan 2026, arXiv:2601.03089"

METRICS = (
    (
        soft_nc,
        MetricInfo(
            "soft_nc",
            "faithfulness",
            "higher",
            "scores",
            "π-Soft-NC: how far the distribution moves when low-scored embeddings are kept",
            _SOURCE,
            masking="zero",
            maskings=EMBEDDING_MASKINGS,
        ),
    ),
    (
        soft_ns,
        MetricInfo(
            "soft_ns",
            "faithfulness",
            "higher",
            "scores",
            "π-Soft-NS: how little the distribution moves when high-scored embeddings are kept",
            _SOURCE,
            masking="zero",
            maskings=EMBEDDING_MASKINGS,
        ),
    ),
)
