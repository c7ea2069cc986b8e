"""Head-selected attribution: the attention of a few heads that causal mediation has chosen.

1. Heads are chosen once per model (`causal_lvlm.attribution.head_choice`) and kept on disk.
2. Score: their mean attention in the predicting row. One forward pass, no gradient.

References
----------
S. Basu et al., "On Mechanistic Circuits for Extractive Question-Answering", COLM 2025,
arXiv:2502.08059 (AttnAttrib).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.attribution.head_choice import N_HEADS, HeadChoice, select_heads
from causal_lvlm.attribution.info import MethodInfo, Progress, Table
from causal_lvlm.attribution.result import Scores
from causal_lvlm.attribution.weights import check_finite, target_rows
from causal_lvlm.checks import check_annotated, check_names
from causal_lvlm.protocols import TraceLike
from causal_lvlm.tokens import Target, TargetLike

__all__ = ["TABLE", "HeadChoice", "attn_attrib", "select_heads"]


def check_passed_on(options: Mapping[str, Any]) -> None:
    """Refuse options that `select_heads`, which gets them, would refuse."""
    names = inspect.signature(select_heads).parameters
    check_names("attn_attrib", options, set(names) - {"traces", "targets"})
    check_annotated(select_heads, options)


def attn_attrib(
    trace: TraceLike,
    target: Target,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    heads: HeadChoice | Sequence[tuple[int, int]] | None = None,
    heads_file: str | os.PathLike[str] | None = None,
    probes: Sequence[tuple[TraceLike, TargetLike]] | None = None,
    n_heads: int = N_HEADS,
    row: str = "predictor",
    **options: Any,
) -> Scores:
    """Score positions by the mean attention of heads chosen by causal mediation.

    Parameters
    ----------
    trace : Trace
    target : Target
    seed : int
        For drawing probes.
    progress : callable, optional
    heads : HeadChoice or sequence of (layer, head), optional
        The choice, already made.
    heads_file : path_like, optional
        Where the choice is kept: read if the file is there, else made and written.
    probes : sequence of (trace, target), optional
        What the choice is made from; without them (and without `heads` or a file) it is made from
        this very trace, and counted.
    n_heads : int
        Heads to choose; no effect where the choice is made already.
    row : {"predictor", "own"}
        Whose attention is read, see `causal_lvlm.attribution.weights`.
    **options
        Other options of `select_heads`.

    Returns
    -------
    Scores
        Mean over heads and the target's rows. One forward pass, and those of the choice if it had
        to be made.

    Raises
    ------
    OutputError
        If the file cannot be used, or the choice is of another model.
    AttentionError
        If attention is not finite.
    TypeError
        If an option is unknown.
    ValueError
        If an option's value is not allowed, or a head does not exist.
    """
    rows = target_rows(target, row)
    choice, made = _choice(
        trace, target, heads, heads_file, probes,
        {"n_heads": n_heads, "seed": seed, "progress": progress, **options},
    )  # fmt: skip
    pairs = choice.heads if isinstance(choice, HeadChoice) else choice
    total = np.zeros(len(trace.layout))
    for layer in sorted({layer for layer, _ in pairs}):
        if not 0 <= layer < trace.n_layers:
            raise ValueError(f"layer {layer} does not exist: layers are 0..{trace.n_layers - 1}")
    wanted = sorted({layer for layer, _ in pairs})
    weights = trace.attention(layers=tuple(wanted))[:, :, rows]  # (n, H, n_rows, T)
    check_finite(weights, "attention of the chosen heads")
    for layer, head in pairs:
        if not 0 <= head < weights.shape[1]:
            raise ValueError(f"head {head} does not exist: heads are 0..{weights.shape[1] - 1}")
        total += weights[wanted.index(layer), head].mean(axis=0, dtype=np.float64)
    parameters: dict[str, Any] = {"heads": [list(pair) for pair in pairs], "row": row}
    notes: tuple[str, ...] = ()
    if isinstance(choice, HeadChoice):
        parameters |= {"choice": choice.parameters, "n_probes": choice.n_probes}
        if made and probes is None:
            notes = ("heads were chosen from the explained trace itself, not from probes",)
    runs = 1 + (choice.model_runs if made and isinstance(choice, HeadChoice) else 0)
    return Scores(total / len(pairs), parameters, model_runs=runs, notes=notes)


def _choice(
    trace: TraceLike,
    target: Target,
    heads: HeadChoice | Sequence[tuple[int, int]] | None,
    heads_file: str | os.PathLike[str] | None,
    probes: Sequence[tuple[TraceLike, TargetLike]] | None,
    options: dict[str, Any],
) -> tuple[HeadChoice | tuple[tuple[int, int], ...], bool]:
    """Return the choice of heads, and whether it was made here."""
    if heads is not None and heads_file is not None:
        raise ValueError("give heads or heads_file, not both")
    known = inspect.signature(select_heads).parameters
    unknown = sorted(set(options) - (set(known) - {"traces", "targets"}))
    if unknown:  # also where the choice is made already and would not notice
        raise TypeError(
            f"method 'attn_attrib' has no option {', '.join(unknown)}; select_heads has "
            f"{', '.join(name for name in known if name not in ('traces', 'targets'))}"
        )
    if heads is not None and not isinstance(heads, HeadChoice):
        pairs = tuple((int(layer), int(head)) for layer, head in heads)
        if not pairs:
            raise ValueError("heads is empty; name at least one (layer, head)")
        return pairs, False
    if heads_file is not None and Path(heads_file).exists():
        heads = HeadChoice.load(heads_file)
    if isinstance(heads, HeadChoice):
        heads.check(trace)
        return heads, False
    pairs_of = [(trace, target)] if probes is None else list(probes)
    made = select_heads([p[0] for p in pairs_of], [p[1] for p in pairs_of], **options)
    made.check(trace)
    if heads_file is not None:
        made.save(heads_file)
    return made, True


TABLE: Table = (
    (
        attn_attrib,
        MethodInfo(
            "attn_attrib",
            ("attnattrib", "head_selected"),
            "attention",
            "attention of a few heads chosen once per model by causal mediation",
            "1 forward (and once per model: layers x heads rows for each probe)",
            reference="Basu et al. 2025, arXiv:2502.08059",
        ),
    ),
)
