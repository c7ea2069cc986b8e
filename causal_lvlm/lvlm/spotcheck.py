"""Do the fast ways of masking say what the plain one says, on this model?

Dropping tokens, hiding their keys and starting from a stored prefix are the same function of the
remaining tokens by theory, and by what is known of a model's configuration. A model may still
differ: its code may count tokens instead of reading position ids, look at a window, or keep state
outside attention. So, the first time a trace uses a way:

1. two of the masked rows, the one that masks most and the one that masks least, are evaluated
   again from scratch: the whole sequence, keys hidden (or tokens left out, where layers without
   attention make hiding impossible);
2. where any log-probability differs by more than the model's number format explains, the fast way
   is not used on this trace again, the rows are evaluated the safe way, and the evaluation, the
   trace and a warning say so.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.lvlm.results import BackendCheck

if TYPE_CHECKING:
    from causal_lvlm.lvlm.prepared import Prepared

__all__ = ["CheckedWays", "chosen_rows", "tolerance_of", "ways_of"]

# Half formats differ between kernels by about their own step times the size of the logits.
_TOLERANCES = {torch.float32: 2e-3, torch.float64: 1e-6, torch.float16: 0.05, torch.bfloat16: 0.3}


def tolerance_of(dtype: torch.dtype) -> float:
    """Return how far two log-probabilities may differ that are equal but for rounding."""
    return _TOLERANCES.get(dtype, 0.3)


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


_ways: WeakKeyDictionary[Prepared, CheckedWays] = WeakKeyDictionary()
_lock = threading.Lock()


def ways_of(prepared: Prepared) -> CheckedWays:
    """Return what is known for a trace; the same object every time."""
    with _lock:
        return _ways.setdefault(prepared, CheckedWays())


def chosen_rows(changed: BoolArray) -> IntArray:
    """Return the rows to evaluate twice: most and fewest changed positions, if any are."""
    counts = changed.sum(axis=1)
    some = np.flatnonzero(counts)
    if not len(some):  # nothing masked, but perhaps computed from a stored prefix
        return np.arange(min(1, len(changed)))
    return np.unique([some[counts[some].argmax()], some[counts[some].argmin()]])
