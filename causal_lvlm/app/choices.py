"""What can be chosen on the page: settings of a search, and methods by group."""

from __future__ import annotations

from typing import Any

__all__ = ["MASKINGS", "MODES", "PATENTED", "SOURCES", "method_groups"]

MODES = ("necessary", "sufficient")
MASKINGS = ("remove", "edges", "neutral")
# What the choice is called -> options of `causal_lvlm.explain`.
SOURCES: dict[str, dict[str, Any]] = {
    "influence (default)": {},
    "relevancy": {"source": "relevancy"},
    "attention heads, last layer": {"source": "attention", "layer": -1},
}
PATENTED = "Propagation (patented)"
# What a group of methods is called -> families of `causal_lvlm.list_methods`.
GROUPS = {
    "Attention": ("attention",),
    "Gradients": ("gradient",),
    "What the model reads at each position": ("lens",),
    "Perturbation: many model runs": ("perturbation",),
    "Causal, consensus, and a random floor": ("causal", "consensus", "random"),
    PATENTED: ("propagation",),
}


def method_groups() -> dict[str, list[tuple[str, str]]]:
    """Return the methods as (label, name) by group, cheap ones first within each."""
    import causal_lvlm

    groups: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
    of_family = {family: name for name, families in GROUPS.items() for family in families}
    for method in causal_lvlm.list_methods():
        slow = method.optional and method.family == "perturbation"
        label = method.name + (" (slow)" if slow else "")
        name = of_family.get(method.family, method.family.capitalize())
        groups.setdefault(name, []).append((label, method.name))
    return {name: choices for name, choices in groups.items() if choices}
