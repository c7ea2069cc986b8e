"""Verified causal explanations of the tokens a large vision-language model generates.

Data flows one way: image + prompt -> `Trace` -> correlation -> PAG -> PDS-tree -> `Explanation`
-> report. Names are imported when they are first used, so that ``import causal_lvlm`` loads
neither torch nor transformers nor numba.

Examples
--------
>>> import causal_lvlm as cl
>>> from causal_lvlm.tiny import sample_inputs
>>> sample = sample_inputs()[0]
>>> trace = cl.load_model().run(sample.image_path, sample.prompt)  # the embedded model
>>> explanation = cl.explain(trace, target=trace.answer)
>>> trace.answer, explanation.verified, explanation.minimality
('yellow', True, 'minimum')
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causal_lvlm.attribution import Attribution
    from causal_lvlm.attribution.edge_effects import EdgeEffects, edge_effects
    from causal_lvlm.correlation import attention_correlation
    from causal_lvlm.covariance import TokenCorrelation
    from causal_lvlm.edges import Cut, all_but, cut
    from causal_lvlm.errors import CausalLVLMError
    from causal_lvlm.explanation import (
        CausalGraph,
        Explanation,
        GraphOptions,
        causal_graph,
        exhaustive_explanation,
        explain,
    )
    from causal_lvlm.lvlm import LVLM, Family, Trace, load_model
    from causal_lvlm.methods import attribute, evaluate, list_methods
    from causal_lvlm.metrics import list_metrics
    from causal_lvlm.record import TraceRecord
    from causal_lvlm.reporting import report
    from causal_lvlm.structure import (
        PAG,
        BackgroundKnowledge,
        LearnedStructure,
        PDSTree,
        compare_graphs,
        edge_stability,
        learn_structure,
        learn_structures,
        pds_tree,
    )
    from causal_lvlm.tokens import Target, TokenLayout
    from causal_lvlm.units import make_units

__version__ = "0.1.0"

_HOMES = {
    "load_model": "lvlm",
    "Family": "lvlm",
    "LVLM": "lvlm",
    "Trace": "lvlm",
    "TraceRecord": "record",
    "TokenLayout": "tokens",
    "Target": "tokens",
    "attention_correlation": "correlation",
    "TokenCorrelation": "covariance",
    "learn_structure": "structure",
    "learn_structures": "structure",
    "BackgroundKnowledge": "structure",
    "compare_graphs": "structure",
    "edge_stability": "structure",
    "LearnedStructure": "structure",
    "PAG": "structure",
    "pds_tree": "structure",
    "PDSTree": "structure",
    "explain": "explanation",
    "causal_graph": "explanation",
    "CausalGraph": "explanation",
    "GraphOptions": "explanation",
    "exhaustive_explanation": "explanation",
    "Explanation": "explanation",
    "edge_effects": "attribution.edge_effects",
    "EdgeEffects": "attribution.edge_effects",
    "Cut": "edges",
    "cut": "edges",
    "all_but": "edges",
    "attribute": "methods",
    "list_methods": "methods",
    "Attribution": "attribution",
    "make_units": "units",
    "evaluate": "methods",
    "list_metrics": "metrics",
    "report": "reporting",
    "CausalLVLMError": "errors",
}

__all__ = [
    "LVLM",
    "PAG",
    "Attribution",
    "BackgroundKnowledge",
    "CausalGraph",
    "CausalLVLMError",
    "Explanation",
    "Family",
    "GraphOptions",
    "LearnedStructure",
    "PDSTree",
    "Target",
    "TokenCorrelation",
    "TokenLayout",
    "Trace",
    "TraceRecord",
    "attention_correlation",
    "attribute",
    "causal_graph",
    "compare_graphs",
    "edge_stability",
    "evaluate",
    "exhaustive_explanation",
    "explain",
    "learn_structure",
    "learn_structures",
    "list_methods",
    "list_metrics",
    "load_model",
    "make_units",
    "pds_tree",
    "report",
    "edge_effects",
    "EdgeEffects",
    "Cut",
    "cut",
    "all_but",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
