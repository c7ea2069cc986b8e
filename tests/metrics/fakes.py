"""Traces whose probability is a known function of what is visible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from causal_lvlm.metrics import Case
from causal_lvlm.tokens import TokenLayout
from tests.explanation.fakes import OTHER, SAID, FakeModel, layout

__all__ = ["OTHER", "SAID", "FunctionTrace", "additive", "boolean", "case_of", "layout"]


@dataclass
class FunctionTrace:
    """Probability of the target = `probability(share of each position's embedding that is left)`.

    `probability` gets float64 (T,): 1 where a position is untouched, 0 where it is masked; under
    soft perturbation the mean of the position's embedding components, which are all 1.
    """

    probability: Callable[[np.ndarray], float]
    layout: TokenLayout = field(default_factory=layout)
    dimensions: int = 400
    rows: int = 0
    calls: list[str] = field(default_factory=list)
    model_id: str = "fake"
    model = FakeModel()
    revision: str | None = None

    def evaluate(self, keep: np.ndarray, target: Any, *, masking: str = "remove", **_: Any) -> Any:
        self.calls.append(masking)
        return self._answer(keep.astype(np.float64))

    def embeddings(self) -> np.ndarray:
        return np.ones((len(self.layout), self.dimensions), dtype=np.float32)

    def baseline_embeddings(self, kind: str = "zero") -> np.ndarray:
        frame = (self.layout.modality == "special")[:, None]
        return np.where(frame, self.embeddings(), 0).astype(np.float32)

    def evaluate_embeddings(
        self, rows: Any, target: Any, *, n_rows: int | None = None, distribution: bool = False,
        **_: Any,
    ) -> Any:  # fmt: skip
        self.calls.append("embeddings")
        stacked = np.stack([rows(i) for i in range(n_rows)]) if callable(rows) else rows
        found = self._answer(stacked.astype(np.float64).mean(axis=2))
        if distribution:
            p = np.exp(found.log_prob)
            found.distributions = np.stack([p, 1 - p], axis=1)[:, None].astype(np.float32)
        return found

    def _answer(self, visible: np.ndarray) -> Any:
        self.rows += len(visible)
        p = np.array([self.probability(row) for row in visible])
        log_prob, margin = np.log(p), np.log(p / (1 - p))
        return SimpleNamespace(
            log_prob=log_prob, token_log_probs=log_prob[:, None], margin=margin[:, None],
            argmax=np.where(margin > 0, SAID, OTHER)[:, None], runs=len(p), against_log_prob=None,
            runner_up=np.full((len(p), 1), OTHER), backend="fake", check=None,
        )  # fmt: skip


def additive(base: float, weights: list[float], **options: Any) -> FunctionTrace:
    """p = base + sum of the weights of visible candidate positions, in order of position."""
    found = FunctionTrace(lambda v: 0.5, **options)
    modality = found.layout.modality
    positions = [p for p in range(len(modality)) if modality[p] in ("image", "prompt")]
    if len(positions) != len(weights):
        raise ValueError(f"{len(positions)} candidates, {len(weights)} weights")
    w = np.array(weights)
    found.probability = lambda v: float(base + v[positions] @ w)
    return found


def boolean(says: Callable[[set[int]], bool], **options: Any) -> FunctionTrace:
    """p = 0.9 where `says(visible positions)`, else 0.1."""
    return FunctionTrace(lambda v: 0.9 if says(set(np.flatnonzero(v > 0.5))) else 0.1, **options)


def case_of(trace: FunctionTrace, **options: Any) -> Case:
    return Case(trace, 0, **{"units": "patch+token", **options})
