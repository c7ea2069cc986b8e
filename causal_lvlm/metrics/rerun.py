"""Run a method again, on another trace: what sanity checks and stability have in common.

A *recipe* is a method's name, an `Attribution` or an `Explanation` that was made before (its method
and the options that it recorded), or a function ``(trace, target, units) -> scores over units``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from causal_lvlm.arrays import FloatArray
from causal_lvlm.errors import SelfCheckError, TargetError
from causal_lvlm.tokens import Target, Units

__all__ = [
    "ANY_MODEL",
    "PIXEL_METHODS",
    "REFUSALS",
    "Recipe",
    "Rerun",
    "Rerunner",
    "recorded_options",
]

Recipe: TypeAlias = "str | Callable[[Any, Target, Units], Any] | Any"

PIXEL_METHODS = ("relevancy-vit", "relevancy-all", "relevancy-all_v2", "relevancy-chain")
"""Methods whose map ends in the vision tower, where patches were mixed before."""

REFUSALS = (TargetError, SelfCheckError)
"""What a method raises that explains only what the model really says (such as ``causal``)."""

ANY_MODEL: dict[str, Any] = {"tester": "drop", "force": True}
"""How ``causal`` explains a token that the model would not have said: by its probability."""


@dataclass(frozen=True)
class Rerun:
    """What a method said.

    Attributes
    ----------
    scores : ndarray of float64, shape (U,)
    mass : ndarray of float64, shape (U,)
        Sum of absolute scores over each unit's positions, so that signs cannot cancel.
    model_runs, backward_passes : int
    """

    scores: FloatArray
    mass: FloatArray
    model_runs: int = 0
    backward_passes: int = 0


class Rerunner:
    """A method with its options, ready to be asked again and again.

    Parameters
    ----------
    recipe : str, Attribution, Explanation or callable
    options : mapping, optional
        Options of the method; they go before those that an attribution recorded.
    seed : int
        For methods that draw random numbers.
    any_model : bool
        Ask ``causal`` with `ANY_MODEL` where `options` do not say otherwise: a model that says
        something else has no choice to change, but gives the target a probability that can fall.

    Attributes
    ----------
    name : str
    options : dict
    model_runs, backward_passes : int
        Of all runs so far.

    Raises
    ------
    TypeError
        If the recipe is none of the kinds above.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        *,
        any_model: bool = False,
    ) -> None:
        given: Any = recipe
        self.options = dict(options or {})
        self.seed = seed
        self.model_runs = self.backward_passes = 0
        self._function: Callable[[Any, Target, Units], Any] | None = None
        method = getattr(recipe, "method", None)
        if isinstance(recipe, str):
            self.name = recipe
        elif isinstance(method, str):
            self.name = method
            self.options = {**recorded_options(method, given.parameters), **self.options}
        elif hasattr(recipe, "sets") and hasattr(recipe, "graphs"):
            self.name = "causal"
            self.options = {**_of_explain(given.parameters), **self.options}
        elif callable(recipe):
            self.name = getattr(recipe, "__name__", type(recipe).__name__)
            self._function = recipe
        else:
            raise TypeError(
                "a method is given by its name, by an Attribution or Explanation that it made, or "
                f"as a function (trace, target, units) -> scores, got {type(recipe).__name__}"
            )
        if any_model and "against" not in (options or {}) and self._causal():
            self.options = {**self.options, **ANY_MODEL, **(options or {})}

    def _causal(self) -> bool:
        if self._function is not None:
            return False
        from causal_lvlm.attribution.registry import METHODS

        return METHODS.get(self.name) is METHODS["causal"]

    def __call__(self, trace: Any, target: Target, units: Units) -> Rerun:
        """Run the method on a trace.

        Raises
        ------
        ValueError
            If a function does not return one finite number per unit.
        """
        if self._function is not None:
            values = np.asarray(self._function(trace, target, units), dtype=np.float64)
            if values.shape != (len(units),) or not np.isfinite(values).all():
                raise ValueError(
                    f"{self.name} must return one finite number for each of the {len(units)} "
                    f"units, got shape {values.shape}"
                )
            return Rerun(values, np.abs(values))
        # Imported when it is needed: methods of its table load torch.
        from causal_lvlm.attribution.registry import attribute

        found = attribute(trace, target, self.name, units=units, seed=self.seed, **self.options)
        mass = [np.abs(found.scores[list(m)]).sum() for m in units.members]
        self.model_runs += found.model_runs
        self.backward_passes += found.backward_passes
        return Rerun(
            found.unit_scores(units), np.array(mass, dtype=np.float64), found.model_runs,
            found.backward_passes,
        )  # fmt: skip


def recorded_options(method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that an `Attribution` recorded, as its method takes them again.

    Parameters
    ----------
    method : str
    parameters : mapping
        ``Attribution.parameters``. Numbers that are results, not options, are left out.

    Returns
    -------
    dict
        Empty for an unknown method: `attribute` will say that there is none.
    """
    from causal_lvlm.attribution.registry import METHODS

    if method not in METHODS:
        return {}
    signature = inspect.signature(METHODS[method]).parameters
    ours = ("trace", "target", "units", "seed", "progress")
    recorded = {k: v for k, v in parameters.items() if k in signature and k not in ours}
    if method == "causal":
        return {**_of_explain(parameters.get("explain", {})), **recorded}
    if method == "consensus" and "members" in parameters:
        # Its "methods" are names for the eye, numbered where one occurs twice.
        recorded["methods"] = [(m["method"], m["options"]) for m in parameters["members"]]
    if "accept_patent_note" in signature:  # there would be no result, had it not been accepted
        recorded["accept_patent_note"] = True
    return recorded


def _of_explain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options among what `explain` recorded; it keeps a remark on layers there too."""
    from causal_lvlm.explanation.explain import explain

    known = inspect.signature(explain).parameters
    return {k: v for k, v in parameters.items() if k in known and k not in ("seed", "against")}
