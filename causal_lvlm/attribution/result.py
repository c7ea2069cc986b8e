"""The result of a relevancy method: one number per position, and where it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from causal_lvlm.arrays import FloatArray, frozen
from causal_lvlm.errors import OutputError
from causal_lvlm.storage import read_json, versions, write_json
from causal_lvlm.tokens import Target, TokenLayout, Units

__all__ = ["Attribution", "Scores"]

KIND = "attribution"


class Scores(NamedTuple):
    """What a method function returns; `attribute` turns it into an `Attribution`.

    Attributes
    ----------
    values : ndarray of float64, shape (T,)
    parameters : dict
        Every option that the method ran with, as JSON knows it.
    model_runs, backward_passes : int
        How often the model ran forwards and backwards.
    """

    values: FloatArray
    parameters: dict[str, Any]
    model_runs: int = 1
    backward_passes: int = 0


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
        How often the model ran forwards and backwards.
    seconds : float
        Wall-clock time.
    model_id : str
    revision : str or None
    versions : dict
        Versions of the packages that the result depends on.
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

    def __post_init__(self) -> None:
        """Freeze the scores and check that they are one number per position."""
        object.__setattr__(self, "scores", frozen(self.scores, np.float64))
        if self.scores.ndim != 1:
            raise ValueError(f"scores must have one axis, got shape {self.scores.shape}")

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
        sums = np.array([self.scores[list(members)].sum() for members in units.members])
        return tuple(int(unit) for unit in np.argsort(-sums, kind="stable"))

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
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the attribution to a JSON file and return its path; raises `OutputError`."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If the file cannot be read or holds no attribution.
        """
        value = read_json(path, KIND)
        try:
            target = value["target"]
            return cls(
                method=value["method"],
                scores=np.asarray(value["scores"], dtype=np.float64),
                target=Target(
                    positions=tuple(target["positions"]),
                    token_ids=tuple(target["token_ids"]),
                    text=target["text"],
                    occurrence=tuple(target["occurrence"]),
                ),
                parameters=value["parameters"],
                model_runs=value["model_runs"],
                backward_passes=value["backward_passes"],
                seconds=value["seconds"],
                model_id=value["model_id"],
                revision=value["revision"],
                versions=value["versions"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(
                f"{str(path)!r} is no complete attribution ({error!r}); save it again"
            ) from error
