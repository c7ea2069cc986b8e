"""The model boundary: the one room that runs vision-language models; it hands out numpy only.

From the inside out, each module knowing those before it:

1. `family`, `families`, `geometry`, `tiles`: what there is to say about kinds of models;
   `attention_function`, `context`, `state`: what is put on a model, and taken off again;
2. `facts`, `inputs`, `layers`, `backbone`: `Backbone`, a model as everything that asks it needs it;
3. `prepared`: `Prepared`, a sequence ready to run again;
4. `capture`, `evaluate`, `gradients`, `probes`, `features`, `heads`, `cross`, `lrp`: what may be
   asked about it, each a class over `live`;
5. `trace`: `Trace` puts them together; `model`: `LVLM` makes traces; `loading`: `load_model`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causal_lvlm.lvlm.family import Family
    from causal_lvlm.lvlm.gradients import BackwardPass, LayerGradient
    from causal_lvlm.lvlm.loading import load_model
    from causal_lvlm.lvlm.memory import PeakMemory
    from causal_lvlm.lvlm.model import LVLM
    from causal_lvlm.lvlm.trace import Trace
    from causal_lvlm.results import (
        BackendCheck,
        EmbeddingEvaluation,
        Evaluation,
        LayerTensors,
        SelfCheck,
    )

__all__ = [
    "LVLM",
    "BackendCheck",
    "BackwardPass",
    "EmbeddingEvaluation",
    "Evaluation",
    "Family",
    "LayerGradient",
    "LayerTensors",
    "PeakMemory",
    "SelfCheck",
    "Trace",
    "load_model",
]

# Loaded on first use: torch and transformers take seconds.
_HOMES = {
    "LVLM": "lvlm.model",
    "Family": "lvlm.family",
    "BackwardPass": "lvlm.gradients",
    "BackendCheck": "results",
    "Evaluation": "results",
    "EmbeddingEvaluation": "results",
    "LayerGradient": "lvlm.gradients",
    "LayerTensors": "results",
    "PeakMemory": "lvlm.memory",
    "SelfCheck": "results",
    "Trace": "lvlm.trace",
    "load_model": "lvlm.loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"causal_lvlm.{_HOMES[name]}"), name)
