"""What the model boundary hands out: plain numpy, no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from causal_lvlm.arrays import Float32Array, FloatArray, IntArray, frozen

__all__ = [
    "BackendCheck",
    "EmbeddingEvaluation",
    "Evaluation",
    "LayerTensors",
    "Regenerated",
    "Relevance",
    "Rules",
    "SelfCheck",
]


@dataclass(frozen=True)
class SelfCheck:
    """Whether one teacher-forced pass says the same as the generation did.

    Attributes
    ----------
    passed : bool
    argmax_agreement : float
        Share of generated tokens that are also the teacher-forced pass's first choice.
    max_log_prob_difference : float
        Largest difference between log-probabilities of the generated tokens in the two passes.
    tolerance : float
        Largest difference that passes; depends on the model's number format.
    geometry_error : float
        Largest distance, in cells, between the centre of an image token's rectangle and where a
        coordinate ramp sent through the same image processor says it is. Must be below 0.5.
    largest_gap : float
        How far, in logits, a generated token lies behind the teacher-forced pass's first choice at
        most: 0 where they agree. Rounding may swap tokens that nearly tie, so up to `tolerance`
        passes.
    """

    passed: bool
    argmax_agreement: float
    max_log_prob_difference: float
    tolerance: float
    geometry_error: float = 0.0
    largest_gap: float = 0.0


@dataclass(frozen=True)
class BackendCheck:
    """Whether a fast way of masking said what the plain one says, on a few rows of this trace.

    Attributes
    ----------
    way, reference : str
        What was compared: ``drop``, ``block`` or ``none``, ``+prefix`` where a stored prefix was
        used.
    rows : int
        Masked rows evaluated both ways.
    max_difference : float
        Largest difference between log-probabilities of target tokens.
    tolerance : float
        Largest difference that rounding explains in the model's number format.
    agrees : bool
    """

    way: str
    reference: str
    rows: int
    max_difference: float
    tolerance: float
    agrees: bool


@dataclass(frozen=True)
class _Read:
    """What is read from the logits of the predicting rows, whatever was asked."""

    token_log_probs: FloatArray
    argmax: IntArray
    margin: FloatArray
    runner_up: IntArray
    top_log_prob: FloatArray
    against_log_prob: FloatArray | None

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        for name in ("token_log_probs", "margin", "top_log_prob"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.float64))
        for name in ("argmax", "runner_up"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.int64))
        if self.against_log_prob is not None:
            object.__setattr__(self, "against_log_prob", frozen(self.against_log_prob, np.float64))

    @property
    def log_prob(self) -> FloatArray:
        """Log-probability of the whole target, float64 (K,)."""
        total: FloatArray = self.token_log_probs.sum(axis=1)
        return total


@dataclass(frozen=True)
class Evaluation(_Read):
    """What the model says about the target under each mask.

    Attributes
    ----------
    token_log_probs : ndarray of float64, shape (K, G)
        Log-probability of each target token, teacher-forced.
    argmax : ndarray of int64, shape (K, G)
        First choice at each predicting row.
    margin : ndarray of float64, shape (K, G)
        Logit of the target token minus the best other one; negative where it is not first.
    runner_up : ndarray of int64, shape (K, G)
        Best token other than the target's.
    top_log_prob : ndarray of float64, shape (K, G)
        Log-probability of the first choice.
    against_log_prob : ndarray of float64, shape (K,), or None
        Log-probability of the token compared with, at the first predicting row.
    runs : int
        Number of masked rows evaluated (K).
    masking, backend : str
        The intervention, and how it was computed.
    check : BackendCheck or None
        Run-time spot check of the way that was chosen; where it does not agree, these numbers were
        computed the safe way. None where the safe way was chosen to begin with, or nothing masked.
    largest_batch : int
        Most rows that were computed in one call.
    halvings : int
        How often memory ran out and a batch was halved.
    changed_rows : ndarray of int64, shape (K,), or None
        Where edges were cut: how many rows lose one.
    rival_log_probs : ndarray of float64, shape (K, G), or None
        Log-probability of one other token at each predicting row, where they were given.
    """

    runs: int
    masking: str
    backend: str
    check: BackendCheck | None = None
    largest_batch: int = 0
    halvings: int = 0
    changed_rows: IntArray | None = None
    rival_log_probs: FloatArray | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        super().__post_init__()
        if self.changed_rows is not None:
            object.__setattr__(self, "changed_rows", frozen(self.changed_rows, np.int64))
        if self.rival_log_probs is not None:
            object.__setattr__(self, "rival_log_probs", frozen(self.rival_log_probs, np.float64))

    @property
    def fixed_margin(self) -> FloatArray:
        """Sum over the target's tokens of its logit minus that of the rival given, float64 (K,).

        Raises
        ------
        ValueError
            If no rivals were given.
        """
        if self.rival_log_probs is None:
            raise ValueError("no rivals were given")
        total: FloatArray = (self.token_log_probs - self.rival_log_probs).sum(axis=1)
        return total


@dataclass(frozen=True)
class LayerTensors:
    """What the heads of one layer were given and returned, and the gradient that reached them.

    Attributes
    ----------
    layer : int
    query, key, value : ndarray of float32, shape (H, T, d)
        Rotated queries and keys, as they meet; shared keys and values repeated for each head.
    output, output_gradient : ndarray of float32, shape (H, T, d)
        A V before the output projection, and the gradient of the target's score there.
    """

    layer: int
    query: Float32Array
    key: Float32Array
    value: Float32Array
    output: Float32Array
    output_gradient: Float32Array


@dataclass(frozen=True)
class EmbeddingEvaluation(_Read):
    """What the model says about the target when it is given other embeddings.

    Attributes
    ----------
    token_log_probs, margin, top_log_prob : ndarray of float64, shape (K, G)
        As in `Evaluation`.
    argmax, runner_up : ndarray of int64, shape (K, G)
    against_log_prob : ndarray of float64, shape (K,), or None
    distributions : ndarray of float32, shape (K, G, V), or None
        Probabilities of the whole vocabulary at each predicting row, where asked for.
    runs : int
        Number of rows evaluated (K).
    largest_batch, halvings : int
        As in `Evaluation`.
    """

    distributions: Float32Array | None
    runs: int
    largest_batch: int = 0
    halvings: int = 0

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        super().__post_init__()
        if self.distributions is not None:
            self.distributions.setflags(write=False)


@dataclass(frozen=True)
class Rules:
    """Which rule of relevance propagation each kind of operation follows.

    Attributes
    ----------
    attention : {"uniform", "frozen", "plain"}
        ``plain`` keeps the ordinary gradient.
    gate : {"half", "constant"}
    """

    attention: str = "uniform"
    gate: str = "half"


@dataclass(frozen=True, eq=False)
class Relevance:
    """What one propagation of relevance found.

    Attributes
    ----------
    values : ndarray of float64, shape (T,)
        Relevance of each position's merged embedding.
    score : float
        What was propagated: the sum of the target tokens' logits (minus the rival's).
    absorbed : float
        ``score - values.sum()`` with e' = 0: what biases, and rules that do not conserve, kept.
    """

    values: FloatArray
    score: float
    absorbed: float


@dataclass(frozen=True)
class Regenerated:
    """What the model would have said.

    Attributes
    ----------
    text : str
        The whole answer: what was kept of it, and what was generated anew.
    token_ids : tuple of int
        The new tokens.
    log_probs : ndarray of float64, shape (n,)
        Log-probability of each of them, with the change.
    start : int
        Number of the first of them in the answer.
    finished : bool
        Whether the last one stops the model.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probs: FloatArray
    start: int
    finished: bool
