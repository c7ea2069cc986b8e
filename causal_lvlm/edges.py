"""Edges of a model: what one row of attention reads from another position, cut or kept.

1. An edge is a pair (source, reader): row `reader` reads column `source`, in every layer and head
   unless some are chosen. There are as many as the model's own masks allow: a causal model reads
   backwards, blocks that look ahead (PaliGemma, Gemma 3) in both directions.
2. The **frame** is never cut and never counted: what a row reads from itself, what it reads from
   special and template tokens, and what the rows that predict the target read from each other.
   All other edges are **content edges**; edges *into* a special token's row are among them.
3. A `Cut` names the edges that are taken away, or the edges that stay while every other content
   edge is taken away.
4. Of a position that is no ancestor of the target in what stays, nothing reaches the target:
   `Edges.ancestors` says which positions such a run needs.

Cutting an edge in all layers is the attention knockout of Geva et al. (EMNLP 2023,
arXiv:2304.14767, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from causal_lvlm.arrays import BoolArray, IntArray, frozen
from causal_lvlm.errors import EdgeError
from causal_lvlm.tokens import Target, TokenLayout, Units

__all__ = ["Cut", "Edges", "Nodes", "all_but", "cut", "nodes_of"]


@dataclass(frozen=True)
class Cut:
    """Some edges, or every content edge but some; made by `cut` and `all_but`.

    Attributes
    ----------
    pairs : ndarray of int64, shape (n, 2)
        Source and reader of each edge, by reader and then by source, each once.
    rest : bool
        Whether `pairs` stay and every other content edge is cut.
    """

    pairs: IntArray
    rest: bool = False

    def __post_init__(self) -> None:
        """Sort the pairs and freeze them."""
        found = np.asarray(self.pairs)
        if found.size == 0:
            found = found.reshape(0, 2).astype(np.int64)
        if found.ndim != 2 or found.shape[1] != 2 or not np.issubdtype(found.dtype, np.integer):
            raise EdgeError(
                "edges are pairs (source, reader) of positions, an integer array (n, 2); got "
                f"{found.dtype} {found.shape}"
            )
        found = found.astype(np.int64, copy=False)
        order = (found[:, 1] << 32) + found[:, 0]
        if not (order[1:] > order[:-1]).all():
            found = found[np.lexsort(found.T)]
            first = np.ones(len(found), dtype=np.bool_)
            first[1:] = (found[1:] != found[:-1]).any(axis=1)
            found = found[first]
        object.__setattr__(self, "pairs", frozen(found, np.int64))

    def __eq__(self, other: object) -> bool:
        """Whether the same edges are cut."""
        return isinstance(other, Cut) and self.key == other.key

    def __hash__(self) -> int:
        """Equal cuts have equal hashes."""
        return hash(self.key)

    @property
    def key(self) -> tuple[bool, bytes]:
        """What tells it from other cuts."""
        return self.rest, self.pairs.tobytes()


def cut(pairs: Iterable[tuple[int, int]] | IntArray) -> Cut:
    """Cut these edges.

    Parameters
    ----------
    pairs : iterable of (source, reader), or ndarray of int (n, 2)
        Sequence positions.

    Raises
    ------
    EdgeError
        If these are no pairs of whole numbers.

    Examples
    --------
    >>> cut([(3, 7), (2, 5), (3, 7)]).pairs.tolist()
    [[2, 5], [3, 7]]
    """
    return Cut(np.array(pairs if isinstance(pairs, np.ndarray) else list(pairs)))


def all_but(pairs: Iterable[tuple[int, int]] | IntArray) -> Cut:
    """Cut every content edge but these; raises `EdgeError` as `cut` does.

    Parameters
    ----------
    pairs : iterable of (source, reader), or ndarray of int (n, 2)
        Sequence positions of the edges that stay.
    """
    return Cut(cut(pairs).pairs, rest=True)


@dataclass(frozen=True)
class Nodes:
    """The nodes of a graph over one sequence, each a set of positions.

    Attributes
    ----------
    members : tuple of tuple of int
        Positions of each node; the last node is the target: the rows that predict it.
    kinds : tuple of str
        ``image``, ``prompt``, ``generated``, ``special`` or ``target``. A special token's row is
        read by every later row (that is frame), and reads like every other.
    """

    members: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.members)

    @property
    def target(self) -> int:
        """Number of the node that stands for the target."""
        return len(self.members) - 1

    def node_of(self, n_positions: int) -> IntArray:
        """Return the node of each position, int64 (n_positions,); -1: none."""
        found = np.full(n_positions, -1, dtype=np.int64)
        for node, members in enumerate(self.members):
            found[[p for p in members if p < n_positions]] = node
        return found


@dataclass(frozen=True)
class Edges:
    """What may be cut for one target.

    Attributes
    ----------
    layout : TokenLayout
    target : Target
    allowed : ndarray of bool, shape (T, T)
        Which column each row may read, by the model's own masks (in some layer).
    """

    layout: TokenLayout
    target: Target
    allowed: BoolArray = field(repr=False)

    @property
    def stop(self) -> int:
        """Number of positions that reach the target: all up to the last predicting row."""
        return self.target.positions[-1]

    @cached_property
    def readers(self) -> tuple[int, ...]:
        """The rows that predict the target's tokens; in a graph they are one node."""
        return tuple(p - 1 for p in self.target.positions)

    @cached_property
    def frame(self) -> IntArray:
        """Positions whose outgoing edges are never cut: special and template tokens."""
        special = self.layout.modality[: self.stop] == "special"
        return frozen(np.flatnonzero(special), np.int64)

    @cached_property
    def content(self) -> BoolArray:
        """Which edges may be cut, bool (stop, stop): rows are readers, columns sources."""
        found: BoolArray = self.allowed[: self.stop, : self.stop].copy()
        found[:, self.frame] = False
        np.fill_diagonal(found, False)
        found[np.ix_(self.readers, self.readers)] = False
        found.setflags(write=False)
        return found

    @property
    def pairs(self) -> IntArray:
        """All content edges as (source, reader), int64 (E, 2)."""
        return np.argwhere(self.content)[:, ::-1].astype(np.int64)

    def check(self, one: Cut) -> None:
        """Raise `EdgeError` if an edge does not exist, is forbidden, or belongs to the frame."""
        if not len(one.pairs):
            return
        source, reader = one.pairs.T
        outside = (one.pairs < 0) | (one.pairs >= self.stop)
        if outside.any():
            bad = one.pairs[outside.any(axis=1)][0]
            raise EdgeError(
                f"the edge {_name(bad)} does not reach the target at {self.target.start}: its ends "
                f"are positions 0..{self.stop - 1}"
            )
        wrong = np.flatnonzero(~self.content[reader, source])
        if len(wrong):
            bad = one.pairs[wrong[0]]
            raise EdgeError(f"the edge {_name(bad)} cannot be cut: {self._reason(*bad)}")

    def _reason(self, source: int, reader: int) -> str:
        if source == reader:
            return "what a row reads from itself belongs to the frame"
        if not self.allowed[reader, source]:
            return f"the model's own mask does not let position {reader} read position {source}"
        if source in self.frame:
            return f"position {source} is a special or template token, which is always read"
        return "the rows that predict the target always read each other"

    def nodes(self, units: Units) -> Nodes:
        """Return the nodes of a graph over units; see `nodes_of`."""
        return nodes_of(self.layout, self.target, units)

    def between(self, nodes: Nodes, pairs: Iterable[tuple[int, int]]) -> IntArray:
        """Return the edges between nodes: all content edges between their positions.

        Parameters
        ----------
        nodes : Nodes
        pairs : iterable of (int, int)
            Source and reader as numbers of nodes.

        Returns
        -------
        ndarray of int64, shape (n, 2)
            Pairs of positions.

        Raises
        ------
        EdgeError
            If a node does not exist, or nothing of one can read anything of the other.
        """
        found = [np.zeros((0, 2), dtype=np.int64)]
        for source, reader in pairs:
            if not (0 <= source < len(nodes) and 0 <= reader < len(nodes)):
                raise EdgeError(
                    f"the edge {_name((source, reader))} is not between nodes 0..{len(nodes) - 1}"
                )
            rows, columns = (list(nodes.members[k]) for k in (reader, source))
            row, column = np.nonzero(self.content[np.ix_(rows, columns)])
            if not len(row):
                raise EdgeError(
                    f"there is no edge between the nodes {_name((source, reader))}: the model's "
                    "own mask allows none, or it belongs to the frame"
                )
            found.append(np.stack([np.array(columns)[column], np.array(rows)[row]], axis=1))
        return np.concatenate(found).astype(np.int64)

    def between_nodes(self, nodes: Nodes) -> IntArray:
        """Return all edges between different nodes, int64 (n, 2): source and reader as numbers."""
        node_of = nodes.node_of(self.stop)
        reader, source = np.nonzero(self.content)
        ends = np.stack([node_of[source], node_of[reader]], axis=1)
        ends = ends[(ends >= 0).all(axis=1) & (ends[:, 0] != ends[:, 1])]
        found: IntArray = np.unique(ends[:, 0] * len(nodes) + ends[:, 1])
        return np.stack(np.divmod(found, len(nodes)), axis=1).astype(np.int64)

    def ancestors(self, one: Cut) -> IntArray:
        """Return the positions that can reach the target if only these edges and the frame stay.

        Parameters
        ----------
        one : Cut
            Of the kind `all_but`.

        Returns
        -------
        ndarray of int64, ascending
            The predicting rows and the frame among them.
        """
        into: dict[int, list[int]] = {}
        for source, reader in one.pairs.tolist():
            into.setdefault(reader, []).append(source)
        found = {*self.readers, *self.frame.tolist()}
        waiting = sorted(found)
        while waiting:
            new = [s for s in into.get(waiting.pop(), ()) if s not in found]
            found.update(new)
            waiting += new
        return np.array(sorted(found), dtype=np.int64)

    def visible(self, cuts: Sequence[Cut], rows: IntArray, prefix: int = 0) -> BoolArray:
        """Return what some rows still read of a prefix and of each other, bool (K, R, prefix + R).

        What the model's own masks forbid is not looked at here. A position that is neither in the
        prefix nor among the rows is not there for anybody.

        Parameters
        ----------
        cuts : sequence of Cut
        rows : ndarray of int64, shape (K, R)
            Of each cut, positions behind the prefix, ascending.
        prefix : int
            Number of positions before them.
        """
        rest, number, source, reader = _joined(cuts)
        before = np.broadcast_to(np.arange(prefix), (len(cuts), prefix))
        columns = np.concatenate([before, rows], axis=1)
        seen = np.ones((*rows.shape, columns.shape[1]), dtype=np.bool_)
        for k in np.flatnonzero(rest):
            seen[k] = ~self.content[np.ix_(rows[k], columns[k])]
        place = np.full((len(cuts), self.stop), -1)
        np.put_along_axis(place, columns, np.arange(columns.shape[1])[None], axis=1)
        row, column = place[number, reader] - prefix, place[number, source]
        inside = (row >= 0) & (column >= 0)
        number = number[inside]
        seen[number, row[inside], column[inside]] = rest[number]
        return seen

    def n_cut(self, cuts: Sequence[Cut]) -> IntArray:
        """Return how many edges into each row are cut, int64 (K, stop)."""
        rest, number, _, reader = _joined(cuts)
        named = np.bincount(number * self.stop + reader, minlength=len(cuts) * self.stop)
        named = named.reshape(len(cuts), self.stop).astype(np.int64)
        return np.where(rest[:, None], self._edges_into - named, named)

    @cached_property
    def _edges_into(self) -> IntArray:
        return np.asarray(self.content.sum(axis=1), dtype=np.int64)


def nodes_of(layout: TokenLayout, target: Target, units: Units) -> Nodes:
    """Return the nodes of a graph over units: the units, every special token, the target.

    Parameters
    ----------
    layout : TokenLayout
    target : Target
    units : Units
        Of positions before the target that are no frame, see `candidate_units`.
    """
    rows = tuple(p - 1 for p in target.positions)
    special = np.flatnonzero(layout.modality[: rows[-1] + 1] == "special").tolist()
    alone = [(p,) for p in special if p not in rows]
    kinds = (*units.modality, *("special" for _ in alone), "target")
    return Nodes((*units.members, *alone, rows), kinds)


def _joined(cuts: Sequence[Cut]) -> tuple[BoolArray, IntArray, IntArray, IntArray]:
    """Return of each cut whether it is `rest`; of all pairs: number of cut, source, reader."""
    rest = np.array([one.rest for one in cuts], dtype=np.bool_)
    number = np.repeat(np.arange(len(cuts)), [len(one.pairs) for one in cuts])
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *(one.pairs for one in cuts)])
    return rest, number, pairs[:, 0], pairs[:, 1]


def _name(pair: Iterable[int]) -> str:
    source, reader = (int(p) for p in pair)
    return f"{source} -> {reader}"
