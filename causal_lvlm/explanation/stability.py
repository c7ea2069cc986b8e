"""What was found by learning the graph over tokens of one target again and again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.arrays import IntArray, frozen
from causal_lvlm.fields import array, damaged, many, maybe, number, reading, record, whole
from causal_lvlm.storage import read_json, write_json
from causal_lvlm.structure.stability_result import EdgeStability, saved_runs
from causal_lvlm.summary import MAX_POSITIONS, target_check
from causal_lvlm.tokens import Target

__all__ = ["Members", "TargetStability"]

KIND = "target-stability"
Members = tuple[tuple[int, ...], ...]
_POSITION = whole(0, MAX_POSITIONS)
MAX_NODES = 5_000  # five numbers for each pair are made of a file


@dataclass(frozen=True, eq=False)
class TargetStability:
    """Stability of the graph over tokens of one target.

    Attributes
    ----------
    edges : EdgeStability
        Its names are the labels. A run in which one of two tokens was no node counts as a run
        without that edge.
    positions : ndarray of int64, shape (N,)
        First sequence position of each node; the target is the last node.
    members : tuple of tuple of int
    target_node : int
    runs_without_target : int
        Runs in which the target's row was degenerate, so that there was no graph.
    target : Target or None
    """

    edges: EdgeStability
    positions: IntArray
    members: Members
    target_node: int
    runs_without_target: int
    target: Target | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", frozen(self.positions, np.int64))

    @property
    def labels(self) -> tuple[str, ...]:
        """Short name of each node."""
        return self.edges.names or ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: nodes, and the edges that occurred with their frequencies."""
        return {
            **self.edges.to_dict(),
            "positions": self.positions.tolist(),
            "members": [list(m) for m in self.members],
            "target_node": self.target_node,
            "runs_without_target": self.runs_without_target,
            "answer_target": None if self.target is None else asdict(self.target),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` as JSON and return the path; raises `OutputError` if it cannot."""
        counts = self.edges.edge_counts.tolist()
        return write_json(path, {**self.to_dict(), "kind": KIND, "edge_counts": counts})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TargetStability:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If the file cannot be read or holds no such result.
        """
        value = read_json(path, KIND)
        with reading(path, "stability"):
            return cls.from_dict(value)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TargetStability:
        """Rebuild what `save` wrote from its JSON.

        Raises
        ------
        OutputError
            If a field is missing, or is not what it must be.
        """
        n = len(record({"members": many(many(_POSITION, least=1), least=1)})(value, "")["members"])
        if n > MAX_NODES:
            raise damaged("members", f"are {n}; at most {MAX_NODES} nodes are read")
        share, node = number(0.0, 1.0 + 1e-9), whole(0, n - 1)
        marks_of = array(np.float64, 3, low=0.0, high=1.0 + 1e-9)
        fields = record(
            {
                "edges": many(
                    record({"source": node, "target": node, "frequency": share,
                            "marks_source": marks_of, "marks_target": marks_of})
                ),
                "edge_counts": array(np.int64, None, low=0),
                "positions": array(np.int64, n, low=0, high=MAX_POSITIONS),
                "members": many(many(_POSITION, least=1)),
                "target_node": node,
                "runs_without_target": whole(0),
                "answer_target": maybe(target_check()),
            }
        )(value, "")  # fmt: skip
        frequency, marks = np.zeros((n, n)), np.zeros((n, n, 4))
        for edge in fields["edges"]:
            i, j = edge["source"], edge["target"]
            frequency[i, j] = frequency[j, i] = edge["frequency"]
            marks[j, i, 1:], marks[i, j, 1:] = edge["marks_source"], edge["marks_target"]
        marks[:, :, 0] = 1.0 - marks[:, :, 1:].sum(axis=2)
        return cls(
            edges=EdgeStability(
                edge_frequency=frequency,
                mark_frequency=marks,
                edge_counts=fields["edge_counts"],
                **saved_runs(value, n),
            ),
            target=fields["answer_target"],
            **{
                name: fields[name]
                for name in ("positions", "members", "target_node", "runs_without_target")
            },
        )
