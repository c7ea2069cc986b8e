"""What a saved structure must hold, whether it lies in a file of its own or in an explanation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from causal_lvlm.fields import (
    array,
    damaged,
    flag,
    many,
    maybe,
    number,
    record,
    settings,
    text,
    whole,
)
from causal_lvlm.fields import table as names_to
from causal_lvlm.structure.evidence import PairEvidence
from causal_lvlm.structure.pag import PAG

__all__ = ["evidence_arrays", "separations", "summary_fields"]

_SUMMARY = record(
    {
        "tests_per_size": many(whole(0)),
        "complete": flag,
        "stopped": text,
        "conflicts": whole(0),
        "thresholds": many(number(nan=True), least=1),
        "parameters": settings(threshold=maybe(number()), alpha=maybe(number())),
        "versions": names_to(text),
        "smallest_eigenvalue": maybe(number()),
        "unfinished_size": maybe(whole(0)),
        "edges_left": whole(0),
        "names": maybe(many(text)),
        "notes": many(text),
    },
    {"unfinished_size", "edges_left", "names", "notes"},
)


def summary_fields(n: int, value: Any, where: str = "") -> dict[str, Any]:
    """Return the checked fields of `LearnedStructure.summary`, as the class is made from them.

    Raises
    ------
    OutputError
        If one is missing, or is not what it must be.
    """
    fields: dict[str, Any] = _SUMMARY(value, where)
    eigenvalue = fields.pop("smallest_eigenvalue")
    if fields.get("names") is not None and len(fields["names"]) != n:
        raise damaged(f"{where}.names".lstrip("."), f"are {len(fields['names'])} of {n} nodes")
    return {**fields, "_eigenvalue": math.nan if eigenvalue is None else eigenvalue}


def separations(pag: PAG, value: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the checked arrays that say what separated the pairs of nodes without an edge.

    Parameters
    ----------
    pag : PAG
    value : mapping
        Holds ``separator_start``, ``separator_nodes``, ``undecided`` and perhaps ``unseparated``
        and ``restored``, as arrays or as lists; see `LearnedStructure`.
    where : str
        What errors call it.

    Raises
    ------
    OutputError
        If one is missing, or does not fit to the graph.
    """
    n = pag.n_nodes
    absent = int(np.count_nonzero(np.triu(pag.marks == 0, k=1)))
    pairs = array(np.int32, None, 2, low=0, high=n - 1)
    fields: dict[str, Any] = record(
        {
            "separator_start": array(np.int32, absent + 1, low=0),
            "separator_nodes": array(np.int32, None, low=0, high=n - 1),
            "undecided": pairs,
            "unseparated": pairs,
            "restored": pairs,
        },
        {"unseparated", "restored"},
    )(value, where)
    start = fields["separator_start"]
    if start[0] != 0 or (np.diff(start) < 0).any() or start[-1] != len(fields["separator_nodes"]):
        raise damaged(
            f"{where}.separator_start".lstrip("."),
            "must rise from 0 to the number of separator_nodes",
        )
    return fields


def evidence_arrays(
    n: int, value: Mapping[str, Any], where: str = "", lead: str = ""
) -> PairEvidence | None:
    """Return the checked evidence for each pair of n nodes; None where none was kept.

    Parameters
    ----------
    n : int
    value : mapping
        May hold ``weakest``, ``z`` and ``tests``; see `PairEvidence`.
    where : str
        What errors call it.
    lead : str
        Stands before the names.

    Raises
    ------
    OutputError
        If one is missing while another is there, or does not fit.
    """
    names = [f"{lead}{name}" for name in ("weakest", "z", "tests")]
    if not any(name in value for name in names):
        return None
    pairs = n * (n - 1) // 2
    numbers = array(np.float64, pairs, low=0.0, nan=True)
    checks = (numbers, numbers, array(np.int64, pairs, low=0))
    fields = record(dict(zip(names, checks, strict=True)))(value, where)
    return PairEvidence(*fields.values())
