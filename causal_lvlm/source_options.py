"""Where a covariance may come from: options of `causal_lvlm.correlation`, and their defaults."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from causal_lvlm.checks import check_choice, nearest, shown, whole_number
from causal_lvlm.errors import OptionError, OptionTypeError

__all__ = [
    "COMBINED",
    "DEFAULT_ROWS",
    "DEFAULT_THRESHOLDS",
    "SPANNING",
    "Layer",
    "Row",
    "Sink",
    "Source",
    "check_source",
]

Source: TypeAlias = Literal["attention", "output", "relevancy", "influence"]
Layer: TypeAlias = int | Literal["global", "effective", "mean"]
Sink: TypeAlias = Literal["keep", "drop", "condition"]
Row: TypeAlias = Literal["own", "predictor"]
SOURCES = ("attention", "output", "relevancy", "influence")
SPANNING = ("relevancy", "influence")  # one matrix for all layers and heads
COMBINED = ("effective", "mean")  # layers as one

# Smallest |partial correlation| that counts as dependence, for each covariance source: chosen on
# the development split of experiments/first_light ("mean" and "influence": experiments/search),
# never on the pairs that a table reports.
DEFAULT_THRESHOLDS = {
    "attention": 0.3,
    "output": 0.3,
    "effective": 0.1,
    "mean": 0.01,
    "relevancy": 0.005,
    "influence": 0.03,
}
# The row that stands for the target where none is asked for: chosen on the same split.
DEFAULT_ROWS: dict[str, Row] = {
    "attention": "own",
    "output": "own",
    "effective": "predictor",
    "mean": "predictor",
    "relevancy": "predictor",
    "influence": "predictor",
}


def check_source(
    source: Any, layer: Any, heads: Any, row: Any, sink: Any, tiers: Any, n_samples: Any,
    threshold: Any,
) -> None:  # fmt: skip
    """Refuse a covariance source that no model could have; see `attention_correlation`.

    Raises
    ------
    OptionError, OptionTypeError
        If a value is not allowed, or ruled out by another one.
    """
    check_choice("source", source, SOURCES)
    check_choice("sink", sink, ("keep", "drop", "condition"))
    check_choice("tiers", tiers, ("ordered", "image-block"))
    if row is not None:
        check_choice("row", row, ("own", "predictor"))
    _check_layer(layer)
    every = isinstance(heads, str) and heads == "all"
    if not every:
        _check_heads(heads)
    if source in SPANNING and layer != -1:
        raise OptionError(f"source={source!r} spans all layers; layer={layer!r} has no effect")
    if isinstance(layer, str) and layer in COMBINED and source != "attention":
        raise OptionError(f"layer={layer!r} combines attention; source={source!r} has no such")
    if not every and (source in SPANNING or layer in COMBINED):
        raise OptionError(f"heads={shown(heads)} was given, but this source combines all heads")
    if source in SPANNING and row == "own":
        raise OptionError(
            f"row='own' has no place in source={source!r}: the target's own row comes after its "
            f"prediction, so its {source} is zero; use row='predictor'"
        )
    if threshold is not None and n_samples is not None:
        raise OptionError("give either threshold or n_samples (with alpha), not both")


def _check_layer(layer: Any) -> None:
    words = ("global", *COMBINED)
    text = f"layer must be a number, {', '.join(map(repr, words))}; got {shown(layer)}"
    if isinstance(layer, str):
        if layer not in words:
            raise OptionError(text + nearest(layer, words))
    elif isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
        raise OptionTypeError(text)


def _check_heads(heads: Any) -> None:
    try:
        chosen = None if isinstance(heads, str) else list(heads)
    except TypeError:
        chosen = None
    if not chosen:
        raise OptionTypeError(f"heads must be 'all' or a list of heads, got {shown(heads)}")
    numbers = [whole_number("each of heads", head, 0) for head in chosen]
    if len(set(numbers)) < len(numbers):
        raise OptionError(f"heads must be different from each other, got {shown(heads)}")
