"""Relevancy baselines: which positions matter to a generated token, without testing it.

`attribute` runs a method by name, `list_methods` says which there are.
"""

from __future__ import annotations

from causal_lvlm.attribution.registry import MethodInfo, attribute, list_methods
from causal_lvlm.attribution.relevancy import relevancy_matrix
from causal_lvlm.attribution.result import Attribution

__all__ = ["Attribution", "MethodInfo", "attribute", "list_methods", "relevancy_matrix"]
