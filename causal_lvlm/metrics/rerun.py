"""Run a method again, on another trace: what sanity checks and stability have in common.

A *recipe* is a method's name, an `Attribution` or an `Explanation` that was made before (its method
and the options that it recorded), or a function ``(trace, target, units) -> scores over units``.
Which methods there are is not known here: what runs one again is handed in as a `Rerun`, which
`causal_lvlm.methods.rerun` is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy.typing as npt

from causal_lvlm.arrays import FloatArray
from causal_lvlm.attribution.result import Attribution
from causal_lvlm.errors import SelfCheckError, TargetError
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["ANY_MODEL", "PIXEL_METHODS", "REFUSALS", "Method", "Recipe", "Rerun", "Said"]

Recipe: TypeAlias = (
    "str | Attribution | Explanation | Callable[[Any, Target, Units], npt.ArrayLike]"
)

PIXEL_METHODS = ("relevancy-vit", "relevancy-all", "relevancy-all_v2", "relevancy-chain")
"""Methods whose map ends in the vision tower, where patches were mixed before."""

REFUSALS = (TargetError, SelfCheckError)
"""What a method raises that explains only what the model really says (such as ``causal``)."""

ANY_MODEL: dict[str, Any] = {"tester": "drop", "force": True}
"""How ``causal`` explains a token that the model would not have said: by its probability."""


class Said(NamedTuple):
    """What a method said.

    Attributes
    ----------
    scores : ndarray of float64, shape (U,)
    mass : ndarray of float64, shape (U,)
        Sum of absolute scores over each unit's positions, so that signs cannot cancel.
    """

    scores: FloatArray
    mass: FloatArray


class Method(Protocol):
    """A method with its options, ready to be asked again and again.

    Attributes
    ----------
    name : str
    options : dict
    model_runs, backward_passes : int
        Of all runs so far.
    """

    name: str
    options: dict[str, Any]
    model_runs: int
    backward_passes: int

    def __call__(self, trace: TraceLike, target: Target, units: Units) -> Said:
        """Run the method on a trace."""


class Rerun(Protocol):
    """Makes methods ready to be asked again."""

    def __call__(
        self,
        recipe: Recipe,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        *,
        any_model: bool = False,
    ) -> Method:
        """Return the recipe's method.

        `options` go before those that an attribution recorded; `any_model` asks ``causal`` with
        `ANY_MODEL` where they do not say otherwise.
        """
