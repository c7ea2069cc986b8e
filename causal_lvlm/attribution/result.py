"""The result of an attribution method: one number per position, and where it came from.

A method that scores units writes its scores down per position by `spread`: each member of a unit
gets an equal share, so that the sum over the unit's members is the unit's score again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from causal_lvlm.arrays import FloatArray, frozen
from causal_lvlm.fields import (
    array,
    many,
    maybe,
    number,
    reading,
    record,
    settings,
    table,
    text,
    whole,
)
from causal_lvlm.storage import read_json, versions, write_json
from causal_lvlm.summary import target_check
from causal_lvlm.tokens import Target, TokenLayout, Units

__all__ = ["Attribution", "Scores", "spread"]

KIND = "attribution"


class Scores(NamedTuple):
    """What a method function returns; `attribute` turns it into an `Attribution`.

    Attributes
    ----------
    values : ndarray of float64, shape (T,)
    parameters : dict
        Every option that the method ran with, as JSON knows it.
    model_runs, backward_passes : int
        How often the model ran forwards and backwards; a batch of K rows counts K times.
    notes : tuple of str
        What a reader of the scores should know, such as a gap in completeness.
    standard_error : ndarray of float64, shape (T,), or None
        Of `values`, where they are a mean over samples.
    seconds_apart : float
        How much of the call's time is no part of the method: compiling kernels, once.
    """

    values: FloatArray
    parameters: dict[str, Any]
    model_runs: int = 1
    backward_passes: int = 0
    notes: tuple[str, ...] = ()
    standard_error: FloatArray | None = None
    seconds_apart: float = 0.0


def spread(unit_scores: npt.ArrayLike, units: Units, n_positions: int) -> FloatArray:
    """Divide each unit's score evenly among its members.

    Parameters
    ----------
    unit_scores : array_like, shape (U,)
    units : Units
    n_positions : int
        Length T of the sequence.

    Returns
    -------
    ndarray of float64, shape (T,)
        Zero outside the units.

    Raises
    ------
    ValueError
        If there is not one score for each unit.
    """
    scores = np.asarray(unit_scores, dtype=np.float64)
    if scores.shape != (len(units),):
        raise ValueError(f"{len(units)} units need scores ({len(units)},), got {scores.shape}")
    values = np.zeros(n_positions)
    for members, score in zip(units.members, scores, strict=True):
        values[list(members)] = score / len(members)
    return values


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much each position matters to a target, according to one method.

    Attributes
    ----------
    method : str
        Name of the method, see `list_methods`.
    scores : ndarray of float64, shape (T,)
        Zero at and after the target's first position, and where the method says nothing. Positions
        of the frame (special and template tokens) keep their raw score.
    target : Target
    parameters : dict
        Every option that the method ran with.
    model_runs, backward_passes : int
        How often the model ran forwards and backwards; a batch of K rows counts K times.
    seconds : float
        Wall-clock time.
    model_id : str
    revision : str or None
    versions : dict
        Versions of the packages that the result depends on.
    units_name : str
        Name of the units asked for (see `causal_lvlm.units`); ``custom`` where they were given.
        Only methods that need units depend on them.
    seed : int or None
        Seed of a method that draws random numbers, None for all others.
    peak_memory : int or None
        Bytes that the process (or the accelerator) held at most above what it held before; None
        where the system cannot say. Other threads' memory is in it.
    notes : tuple of str
        What a reader of the scores should know.
    standard_error : ndarray of float64, shape (T,), or None
        Of `scores`, where they are a mean over samples.
    """

    method: str
    scores: FloatArray
    target: Target
    parameters: dict[str, Any]
    model_runs: int
    backward_passes: int
    seconds: float
    model_id: str
    revision: str | None = None
    versions: Mapping[str, str] = field(default_factory=versions)
    units_name: str = "patch+token"
    seed: int | None = None
    peak_memory: int | None = None
    notes: tuple[str, ...] = ()
    standard_error: FloatArray | None = None

    def __post_init__(self) -> None:
        """Freeze the scores and check that they are one number per position."""
        object.__setattr__(self, "scores", frozen(self.scores, np.float64))
        object.__setattr__(self, "notes", tuple(self.notes))
        if self.scores.ndim != 1:
            raise ValueError(f"scores must have one axis, got shape {self.scores.shape}")
        if self.standard_error is not None:
            error = frozen(self.standard_error, np.float64)
            object.__setattr__(self, "standard_error", error)
            if error.shape != self.scores.shape:
                raise ValueError(
                    f"standard_error must be of shape {self.scores.shape}, got {error.shape}"
                )

    def unit_scores(self, units: Units) -> FloatArray:
        """Return the sum of scores over each unit's members.

        Parameters
        ----------
        units : Units
            Any units of the same sequence, not only those that the method ran with.

        Returns
        -------
        ndarray of float64, shape (U,)

        Raises
        ------
        ValueError
            If a unit has a position that the sequence lacks.
        """
        last = max((members[-1] for members in units.members), default=-1)
        if last >= len(self.scores):
            raise ValueError(
                f"the units reach to position {last}, but there are {len(self.scores)} scores: "
                "give units of the trace that was explained"
            )
        sums = [self.scores[list(members)].sum() for members in units.members]
        return np.array(sums, dtype=np.float64)

    def ranking(self, units: Units) -> tuple[int, ...]:
        """Return the indices of the units, largest sum of scores first, ties by index.

        Parameters
        ----------
        units : Units

        Returns
        -------
        tuple of int
            A permutation of ``range(len(units))``.
        """
        order = np.argsort(-self.unit_scores(units), kind="stable")
        return tuple(int(unit) for unit in order)

    def image_map(self, layout: TokenLayout, grid: int = 0) -> FloatArray:
        """Return the scores of one grid of image tokens as a picture.

        Parameters
        ----------
        layout : TokenLayout
            Layout of the trace that was explained.
        grid : int
            Which of the layout's grids.

        Returns
        -------
        ndarray of float64, shape (rows, cols)

        Raises
        ------
        ValueError
            If the layout has another length, or no such grid.
        """
        if len(layout) != len(self.scores):
            raise ValueError(
                f"the layout has {len(layout)} positions but the scores {len(self.scores)}: "
                "give the layout of the trace that was explained"
            )
        if not 0 <= grid < len(layout.grids):
            raise ValueError(f"grid {grid} does not exist, the layout has {len(layout.grids)}")
        chosen = layout.grids[grid]
        return self.scores[chosen.positions].reshape(chosen.rows, chosen.cols)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values."""
        return {
            "kind": KIND,
            "method": self.method,
            "target": {
                "positions": list(self.target.positions),
                "token_ids": list(self.target.token_ids),
                "text": self.target.text,
                "occurrence": list(self.target.occurrence),
            },
            "scores": self.scores.tolist(),
            "parameters": dict(self.parameters),
            "model_runs": self.model_runs,
            "backward_passes": self.backward_passes,
            "seconds": self.seconds,
            "model_id": self.model_id,
            "revision": self.revision,
            "versions": dict(self.versions),
            "units": self.units_name,
            "seed": self.seed,
            "peak_memory": self.peak_memory,
            "notes": list(self.notes),
            "standard_error": (
                None if self.standard_error is None else self.standard_error.tolist()
            ),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the attribution to a JSON file and return its path; raises `OutputError`.

        Parameters
        ----------
        path : str or path-like
            Of the JSON file.
        """
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Read what `save` wrote, now or before some of the fields were there.

        Parameters
        ----------
        path : str or path-like
            A file that `save` wrote.

        Raises
        ------
        OutputError
            If the file cannot be read or holds no attribution.
        """
        value = read_json(path, KIND)
        with reading(path, "attribution"):
            fields = _SAVED(value, "")
            units = fields.pop("units", "patch+token")
            return cls(units_name=units, **fields)


_SAVED = record(
    {
        "method": text,
        "scores": array(np.float64, None, nan=True),
        "target": target_check(),
        "parameters": settings(),
        "model_runs": whole(0),
        "backward_passes": whole(0),
        "seconds": number(0.0),
        "model_id": text,
        "revision": maybe(text),
        "versions": table(text),
        "units": text,
        "seed": maybe(whole(None, None)),
        "peak_memory": maybe(whole()),
        "notes": many(text),
        "standard_error": maybe(array(np.float64, None, nan=True)),
    },
    {"units", "seed", "peak_memory", "notes", "standard_error"},
)
