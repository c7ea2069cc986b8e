"""A method with its options, ready to be asked again and again: `Rerunner`.

What was computed once holds all that is needed to compute it on another trace:

1. An `Attribution` names its method and recorded its options; `recorded_options` takes them out of
   its parameters by the method's signature.
2. An `Explanation` is the method ``causal`` with the options that `explain` recorded.
3. A name stands for itself, a function ``(trace, target, units) -> scores`` is just called.

`causal_lvlm.methods.registry` knows the methods, and hands itself in: this module stands below it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from causal_lvlm.attribution.info import MethodFunction
from causal_lvlm.attribution.result import Attribution
from causal_lvlm.explanation.explain import explain
from causal_lvlm.explanation.result import Explanation
from causal_lvlm.metrics.rerun import ANY_MODEL, Recipe, Said
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, Units

__all__ = ["Rerunner", "recorded_options"]


class Rerunner:
    """A method with its options, see `causal_lvlm.metrics.rerun.Method`.

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
    attribute : callable
        `causal_lvlm.attribute`.
    methods : mapping
        Every method's function by name and alias.

    Attributes
    ----------
    name : str
    options : dict
    made : Attribution or None
        The recipe, if it is one.
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
        attribute: Callable[..., Attribution],
        methods: Mapping[str, MethodFunction],
    ) -> None:
        self.options = dict(options or {})
        self.made: Attribution | None = None
        self.seed = seed
        self.model_runs = self.backward_passes = 0
        self._attribute = attribute
        self._function: Callable[[Any, Target, Units], Any] | None = None
        if isinstance(recipe, str):
            self.name = recipe
        elif isinstance(recipe, Attribution):
            self.name, self.made = recipe.method, recipe
            recorded = recorded_options(self.name, recipe.parameters, methods)
            self.options = {**recorded, **self.options}
        elif isinstance(recipe, Explanation):
            self.name = "causal"
            self.options = {**_of_explain(recipe.parameters), **self.options}
        elif callable(recipe):
            self.name = getattr(recipe, "__name__", type(recipe).__name__)
            self._function = recipe
        else:
            raise TypeError(
                "a method is given by its name, by an Attribution or Explanation that it made, or "
                f"as a function (trace, target, units) -> scores, got {type(recipe).__name__}"
            )
        causal = self._function is None and methods.get(self.name) is methods["causal"]
        if any_model and "against" not in (options or {}) and causal:
            self.options = {**self.options, **ANY_MODEL, **(options or {})}

    def __call__(self, trace: TraceLike, target: Target, units: Units) -> Said:
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
            return Said(values, np.abs(values))
        found = self.attribution(trace, target, units)
        mass = [np.abs(found.scores[list(m)]).sum() for m in units.members]
        return Said(found.unit_scores(units), np.array(mass, dtype=np.float64))

    def attribution(self, trace: TraceLike, target: Target, units: Units) -> Attribution:
        """Run a method that has a name."""
        found = self._attribute(
            trace, target, self.name, units=units, seed=self.seed, **self.options
        )
        self.model_runs += found.model_runs
        self.backward_passes += found.backward_passes
        return found


def recorded_options(
    method: str, parameters: Mapping[str, Any], methods: Mapping[str, MethodFunction]
) -> dict[str, Any]:
    """Return the options that an `Attribution` recorded, as its method takes them again.

    Parameters
    ----------
    method : str
    parameters : mapping
        ``Attribution.parameters``. Numbers that are results, not options, are left out.
    methods : mapping

    Returns
    -------
    dict
        Empty for an unknown method: `attribute` will say that there is none.
    """
    if method not in methods:
        return {}
    signature = inspect.signature(methods[method]).parameters
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
    known = inspect.signature(explain).parameters
    return {k: v for k, v in parameters.items() if k in known and k not in ("seed", "against")}
