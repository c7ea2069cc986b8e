"""Do the fast ways of masking say what the plain one says, on this model?

Dropping tokens, hiding their keys and starting from a stored prefix are the same function of the
remaining tokens by theory, and by what is known of a model's configuration. A model may still
differ: its code may count tokens instead of reading position ids, look at a window, or keep state
outside attention. So, the first time a trace uses a way:

1. two of the masked rows, the one that masks most and the one that masks least (or, where some
   were computed from a stored prefix, the one of those that masks most), are evaluated again from
   scratch: the whole sequence, keys hidden (or tokens left out, where layers without attention make
   hiding impossible);
2. where any log-probability differs by more than the model's number format explains, the fast way
   is not used on this trace again, the rows are evaluated the safe way, and the evaluation, the
   trace and a warning say so.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.lvlm.facts import Facts
from causal_lvlm.results import BackendCheck

__all__ = ["CheckedWays", "chosen_rows", "tolerance_for", "tolerance_of"]

# Half formats differ between kernels by about their own step times the size of the logits.
_TOLERANCES = {torch.float32: 2e-3, torch.float64: 1e-6, torch.float16: 0.05, torch.bfloat16: 0.3}


def tolerance_of(dtype: torch.dtype) -> float:
    """Return how far two log-probabilities may differ that are equal but for rounding."""
    return _TOLERANCES.get(dtype, 0.3)


def tolerance_for(lvlm: Facts) -> float:
    """Return the tolerance of a model: quantised weights are multiplied in a half format."""
    formats = [lvlm.dtype]
    quantised = getattr(lvlm.model.config, "quantization_config", None)
    method = getattr(quantised, "quant_method", None)
    if quantised is not None and str(getattr(method, "value", method)) != "gguf":  # unpacked
        formats.append(torch.float16)
        formats.append(getattr(quantised, "bnb_4bit_compute_dtype", None) or torch.float16)
    return max(tolerance_of(one) for one in formats)


@dataclass
class CheckedWays:
    """What is known about the ways of masking on one trace.

    Attributes
    ----------
    checks : dict
        Results by (masking, way).
    lock : RLock
        Held while a way is checked, so that a second thread waits for the answer.
    """

    checks: dict[tuple[str, str], BackendCheck] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def get(self, masking: str, way: str) -> BackendCheck | None:
        """Return the result for a way; one that starts from a prefix covers the same without."""
        return self.checks.get((masking, way)) or self.checks.get((masking, way + "+prefix"))


def chosen_rows(changed: BoolArray, prefixed: BoolArray | None = None) -> IntArray:
    """Return the rows to evaluate twice.

    Parameters
    ----------
    changed : ndarray of bool, shape (K, L)
        Masked positions of each row.
    prefixed : ndarray of bool, shape (K,), optional
        Rows that were computed from a stored prefix; one of them is chosen if there are any.

    Returns
    -------
    ndarray of int64
        At most two: the row with most masked positions, and that of the prefixed rows (without
        any, or where it is the same row: the one with fewest).
    """
    counts = changed.sum(axis=1)
    some = np.flatnonzero(counts)
    if not len(some):  # nothing masked, but perhaps computed from a stored prefix
        return np.arange(min(1, len(changed)))
    most, other = some[counts[some].argmax()], some[counts[some].argmin()]
    if prefixed is not None and prefixed.any() and not prefixed[most]:
        other = np.flatnonzero(prefixed)[counts[prefixed].argmax()]
    return np.unique([most, other])
