"""What perturbation methods share: sets of visible units in, the target's score out.

`VisibleSets` reads one score from what an `Asker` says about sets of units, rows of booleans that
are True where the unit stays visible.

`SetObjective` puts the four terms of submodular region search together, for the candidates of one
step at once, and `path_saliency` turns an order of units into scores.

References
----------
R. Chen et al., "Less is More: Fewer Interpretable Region via Submodular Subset Selection", ICLR
2024, arXiv:2402.09164, section 4.2 (the four terms). The formulas were compared with the authors'
released programs, the numbers of the equations were not looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray
from causal_lvlm.asker import Asker
from causal_lvlm.checks import check_choice

__all__ = ["SCORES", "SetObjective", "Terms", "VisibleSets", "path_saliency", "strict"]

SCORES = ("prob", "log_prob", "margin", "mean_prob")
# Share of the range that makes equal saliencies strictly decreasing along the order.
_TIE_SHARE = 1e-3


@dataclass
class VisibleSets:
    """The target's score while only some units are visible.

    Attributes
    ----------
    asker : Asker
        Every set is evaluated once; its `runs` and `asked` count.
    score : {"prob", "log_prob", "margin", "mean_prob"}
        Probability or log-probability of the whole target; its smallest margin over the best other
        token (in logits); or the mean of its tokens' probabilities. Where the asker compares with
        another token, the first token is read against that one instead: the share p / (p + p') for
        both probabilities, ln p - ln p' otherwise.
    """

    asker: Asker
    score: str = "prob"

    def __post_init__(self) -> None:
        """Check the score's name."""
        check_choice("score", self.score, SCORES)

    def values(self, visible: BoolArray) -> FloatArray:
        """Return the score of each set, (K,), of rows over units (K, U)."""
        found = self.asker.rows(visible)
        if self.asker.against is not None:
            gap = found.token_log_probs[:, 0] - found.against_log_prob
            if self.score in ("prob", "mean_prob"):
                return np.asarray(np.exp(-np.logaddexp(0.0, -gap)))
            return gap
        if self.score == "mean_prob":
            return np.asarray(np.exp(found.token_log_probs).mean(axis=1))
        return found.read(self.score)


class Terms(NamedTuple):
    """Values of some sets: what the model says of them, and how different their members are."""

    model: FloatArray
    diversity: FloatArray

    @property
    def total(self) -> FloatArray:
        """The objective, float64 (K,)."""
        return self.model + self.diversity


@dataclass
class SetObjective:
    """F(S) = a s_conf(S) + b s_eff(S) + c s_cons(S) + d s_colla(S) for sets S of units.

    Attributes
    ----------
    sets : VisibleSets
        With a score between 0 and 1.
    weights : tuple of float
        a (confidence), b (effectiveness), c (consistency), d (collaboration).
    distance : ndarray of float64, shape (U, U), optional
        Angle between the features of two units, divided by pi; needed where b is not 0.
    confidence : callable, optional
        From sets (K, U) to s_conf (K,); needed where a is not 0.

    Notes
    -----
    s_cons is the target's score with only S visible, s_colla one minus its score with S hidden,
    s_eff the sum over the members of S of the distance to the nearest other member (0 for a single
    member), s_conf one minus the entropy of the prediction divided by its largest value.
    """

    sets: VisibleSets
    weights: tuple[float, float, float, float]
    distance: FloatArray | None = None
    confidence: Callable[[BoolArray], FloatArray] | None = None

    def extensions(self, base: Sequence[int], candidates: Sequence[int]) -> Terms:
        """Return the value of ``base`` with each candidate added to it.

        Parameters
        ----------
        base, candidates : sequence of int
            Units; no candidate is in `base`.

        Returns
        -------
        Terms
            Of K = len(candidates) sets.
        """
        return Terms(self._model(self._added(base, candidates)), self.diversity(base, candidates))

    def reductions(self, base: Sequence[int], candidates: Sequence[int]) -> FloatArray:
        """Return the model's terms of all units but `base` and each candidate; float64 (K,)."""
        return self._model(~self._added(base, candidates))

    def _added(self, base: Sequence[int], candidates: Sequence[int]) -> BoolArray:
        sets = np.zeros((len(candidates), len(self.sets.asker.units)), dtype=np.bool_)
        sets[:, list(base)] = True
        sets[np.arange(len(candidates)), list(candidates)] = True
        return sets

    def _model(self, visible: BoolArray) -> FloatArray:
        conf, _, cons, colla = self.weights
        both = self.sets.values(np.concatenate([visible, ~visible]))
        shown, hidden = both[: len(visible)], both[len(visible) :]
        total = cons * shown + colla * (1.0 - hidden)
        if conf and self.confidence is not None:
            total = total + conf * self.confidence(visible)
        return np.asarray(total)

    def diversity(self, base: Sequence[int], candidates: Sequence[int]) -> FloatArray:
        """Return b s_eff of ``base`` with each candidate added; costs no model run."""
        weight = self.weights[1]
        if not weight or self.distance is None or not len(base):
            return np.zeros(len(candidates))
        inside = self.distance[np.ix_(base, base)].copy()
        np.fill_diagonal(inside, np.inf)
        across = self.distance[np.ix_(base, candidates)]
        nearest = np.minimum(inside.min(axis=1)[:, None], across)
        return np.asarray(weight * (nearest.sum(axis=0) + across.min(axis=0)))

    def path(self, order: Sequence[int]) -> FloatArray:
        """Return s_cons + s_colla of the first 0, 1, ..., U units of an order; float64 (U + 1,)."""
        rank = np.empty(len(order), dtype=np.int64)
        rank[list(order)] = np.arange(len(order))
        visible = rank[None, :] < np.arange(len(order) + 1)[:, None]
        both = self.sets.values(np.concatenate([visible, ~visible]))
        return np.asarray(both[: len(visible)] + 1.0 - both[len(visible) :])


def path_saliency(order: Sequence[int], path: FloatArray) -> FloatArray:
    """Return the published scores of an order: they fall where the objective moves.

    v_0 = 0, v_i = v_{i-1} - |F_i - F_{i-1}|, then scaled to [0, 1] (as SMDL, LiMA, VPS and EAGLE
    draw their maps, with F = s_cons + s_colla whatever the weights of the search).

    Parameters
    ----------
    order : sequence of int, length U
        Units, best first.
    path : ndarray of float64, shape (U + 1,)
        F of the first 0, 1, ..., U units.

    Returns
    -------
    ndarray of float64, shape (U,)
        By unit; never rising along the order. All 0 where the objective never moves.
    """
    along = -np.cumsum(np.abs(np.diff(path)))
    width = along.max() - along.min() if len(along) else 0.0
    scores = np.zeros(len(order))
    if width > 0:
        scores[list(order)] = (along - along.min()) / width
    return scores


def strict(order: Sequence[int], scores: FloatArray) -> FloatArray:
    """Return scores in (0, 1] that fall strictly along the order.

    Parameters
    ----------
    order : sequence of int, length U
    scores : ndarray of float64, shape (U,)
        By unit, in [0, 1], never rising along the order.

    Returns
    -------
    ndarray of float64, shape (U,)
        `scores` and, with one part in a thousand, the rank.
    """
    ranks = np.empty(len(order))
    ranks[list(order)] = 1.0 - np.arange(len(order)) / max(len(order), 1)
    return np.asarray((1.0 - _TIE_SHARE) * scores + _TIE_SHARE * ranks)
