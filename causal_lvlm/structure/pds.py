"""The PDS-tree: which nodes can be reached from a root by possible-d-separation paths, and how.

A PDS-path is a path on which every consecutive triple is a collider or a triangle (Rohekar et al.,
NeurIPS 2021, arXiv 2111.04095). The tree holds each pair (previous node, node) once, at its
smallest depth, so a node occurs as often as there are pairs that enter it; a tree with one parent
per node would lose legal ways, since which steps may follow depends on where a path came from.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causal_lvlm.arrays import IntArray, frozen
from causal_lvlm.errors import StructureError
from causal_lvlm.fields import Check, array, record
from causal_lvlm.structure.pag import PAG

if TYPE_CHECKING:
    import numpy.typing as npt

    from causal_lvlm.structure.result import LearnedStructure

__all__ = ["PDSTree", "pds_tree"]


@dataclass(frozen=True, eq=False)
class PDSTree:
    """A PDS-tree as three read-only int64 arrays in breadth-first order.

    Parameters
    ----------
    node : array_like of shape (M,)
        Graph node of each entry; entry 0 is the root. A node may occur several times.
    parent : array_like of shape (M,)
        Index (not node) of the entry above; -1 for the root.
    depth : array_like of shape (M,)
        Number of edges from the root.
    """

    node: IntArray
    parent: IntArray
    depth: IntArray

    def __post_init__(self) -> None:
        for name in ("node", "parent", "depth"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.int64))
        if not self.node.ndim == self.parent.ndim == self.depth.ndim == 1:
            raise StructureError("node, parent and depth must be one-dimensional")
        if not len(self.node) == len(self.parent) == len(self.depth) >= 1:
            raise StructureError("node, parent and depth need the same length, at least 1")
        if self.parent[0] != -1 or self.depth[0] != 0:
            raise StructureError("entry 0 must be the root: parent -1 and depth 0")
        if len(self.node) > 1:
            above = self.parent[1:]
            if (above < 0).any() or (above >= np.arange(1, len(self.node))).any():
                raise StructureError("each parent must be an earlier entry")
            if (self.depth[1:] != self.depth[above] + 1).any() or (np.diff(self.depth) < 0).any():
                raise StructureError("depths must grow by one per step, in breadth-first order")

    @property
    def root(self) -> int:
        """The node at the root."""
        return int(self.node[0])

    @property
    def max_depth(self) -> int:
        """Depth of the deepest entry."""
        return int(self.depth[-1])

    def __len__(self) -> int:
        return len(self.node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PDSTree) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("node", "parent", "depth")
        )

    def __hash__(self) -> int:
        return hash((self.node.tobytes(), self.parent.tobytes()))

    def within(self, radius: int) -> list[int]:
        """Return the sorted nodes at depth 1..radius, without the root.

        Parameters
        ----------
        radius : int
            Largest depth that counts.
        """
        return [int(k) for k in np.unique(self.node[1:][self.depth[1:] <= radius])]

    def distance(self, node: int) -> int | None:
        """Return the smallest depth at which the node occurs (0 for the root); None if nowhere.

        Parameters
        ----------
        node : int
            Node of the graph.
        """
        where = np.flatnonzero(self.node == node)
        return int(self.depth[where[0]]) if len(where) else None

    def path(self, index: int) -> list[int]:
        """Return the nodes from the root to an entry of the tree.

        Parameters
        ----------
        index : int
            Number of the entry in `node`, `parent` and `depth`.
        """
        nodes = []
        while index >= 0:
            nodes.append(int(self.node[index]))
            index = int(self.parent[index])
        return nodes[::-1]

    def to_dict(self) -> dict[str, Any]:
        """Return lists under ``node``, ``parent``, ``depth``."""
        return {name: getattr(self, name).tolist() for name in ("node", "parent", "depth")}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> PDSTree:
        """Invert `to_dict`.

        Parameters
        ----------
        value : dict
            What `to_dict` returned.
        """
        return cls(value["node"], value["parent"], value["depth"])

    @staticmethod
    def check(n_nodes: int) -> Check:
        """Return the check of a saved tree (see `causal_lvlm.fields`).

        Parameters
        ----------
        n_nodes : int
            Of the graph.
        """
        numbers = array(np.int64, None, low=-1)
        read = record(
            {"node": array(np.int64, None, low=0, high=n_nodes - 1), "parent": numbers,
             "depth": numbers}
        )  # fmt: skip
        return lambda value, where: PDSTree(**read(value, where))


def pds_tree(
    pag: PAG | LearnedStructure,
    root: int,
    max_depth: int | None = None,
    *,
    allowed: npt.ArrayLike | None = None,
) -> PDSTree:
    """Build the PDS-tree of a node.

    Parameters
    ----------
    pag : PAG or LearnedStructure
    root : int
        Node to start from, 0..N-1.
    max_depth : int, optional
        Longest path in edges; by default N - 1.
    allowed : array_like of bool, shape (N,), optional
        Nodes that paths may enter; by default all.

    Returns
    -------
    PDSTree

    Raises
    ------
    StructureError
        If the root is no node, the depth is negative, `allowed` has a wrong shape, or the
        structure is not a PAG.

    Examples
    --------
    0 o-> 2 <-o 1 is a collider: node 1 is on a PDS-path from 0, through 2.

    >>> tree = pds_tree(PAG([[0, 0, 2], [0, 0, 2], [1, 1, 0]]), 0, 2)
    >>> tree.within(1), tree.within(2)
    ([2], [1, 2])
    """
    from causal_kernels import pds_tree as kernel

    kind = getattr(pag, "kind", "pag")
    if kind != "pag":
        raise StructureError(f"PDS-trees are defined on a PAG, not on a {kind!r}")
    graph = pag if isinstance(pag, PAG) else pag.pag
    n = graph.n_nodes
    root = operator.index(root)
    if not 0 <= root < n:
        raise StructureError(f"root {root} is no node of this graph, which has nodes 0..{n - 1}")
    depth = n - 1 if max_depth is None else operator.index(max_depth)
    if depth < 0:
        raise StructureError(f"max_depth must be 0 or more, not {depth}")
    mask = np.ones(n, dtype=np.uint8)
    if allowed is not None:
        given = np.asarray(allowed, dtype=bool)
        if given.shape != (n,):
            raise StructureError(f"allowed has shape {given.shape}; the graph needs ({n},)")
        mask = given.astype(np.uint8)
    # a copy that can be written to, as the graphs that are learned: one compiled kernel for both
    return PDSTree(*kernel(graph.marks.copy(), mask, root, depth))
