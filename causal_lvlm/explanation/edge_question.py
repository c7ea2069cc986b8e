"""What the model is asked about sets of edges: does the graph keep the answer, does the cut end it?

An edge between two nodes is all content edges between their positions (`causal_lvlm.edges`).

1. **sufficient**: every content edge is cut but those of the set (and what the positions of one
   node read of each other); the set is an explanation if the prediction stays.
2. **necessary**: the edges of the set are cut; it is one if the prediction changes.
3. An edge that stays and from whose reader nothing leads to the target cannot matter, so it is left
   out before anything is asked: sets that differ by such edges are one question. (Where values are
   cut, patterns of attention still hang on it, and nothing is left out.)
4. Controls are random sets with as many edges into each reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import comb

import numpy as np

from causal_lvlm.answers import Answers
from causal_lvlm.arrays import IntArray
from causal_lvlm.asker import Subset
from causal_lvlm.edges import Cut, Edges, Nodes
from causal_lvlm.explanation.question import Question, draw

__all__ = ["EdgeQuestion"]


@dataclass
class EdgeQuestion(Question):
    """Whether a set of edges is an explanation; subsets are sets of indices into `items`.

    Attributes
    ----------
    asker : Asker
        One that cuts edges, see `Asker.under`.
    tester, mode
        As in `Question`.
    scope : tuple of int
        Edges that may be kept or cut: all of `items`.
    edges : Edges
    nodes : Nodes
    items : ndarray of int64, shape (n, 2)
        Source and reader of each edge, as numbers of nodes.
    """

    edges: Edges = field(kw_only=True)
    nodes: Nodes = field(kw_only=True)
    items: IntArray = field(kw_only=True)
    asked: dict[Cut, Subset] = field(default_factory=dict, kw_only=True)

    def cut_of(self, subset: Iterable[int]) -> Cut:
        """Return what is cut in order to ask about a subset."""
        if self.mode == "necessary":
            return Cut(self._pairs(subset))
        pairs = np.concatenate([self._inside, self._pairs(self.pruned(subset))])
        return Cut(pairs, rest=True)

    def key_of(self, subset: Iterable[int]) -> Cut:
        """Return what the asker remembers the answer under."""
        return self.cut_of(subset)

    def answers(self, subsets: Sequence[Iterable[int]]) -> Answers:
        """Return what the model said when it was asked about each subset."""
        cuts = [self.cut_of(subset) for subset in subsets]
        for one, subset in zip(cuts, subsets, strict=True):
            self.asked.setdefault(one, self.pruned(subset))
        return self.asker.cuts(cuts)

    def pruned(self, subset: Iterable[int]) -> Subset:
        """Return the edges of a subset from which something leads to the target."""
        chosen = frozenset(subset)
        if self.mode == "necessary" or self.asker.masking != "cut-mask":
            return chosen
        into: dict[int, list[int]] = {}
        for item in chosen:
            into.setdefault(int(self.items[item, 1]), []).append(item)
        # What special tokens read is read of them by every later row.
        waiting = [self.nodes.target, *self._special]
        seen, kept = set(waiting), []
        while waiting:
            for item in into.get(waiting.pop(), ()):
                kept.append(item)
                source = int(self.items[item, 0])
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return frozenset(kept)

    def found(self) -> list[Subset]:
        """Return every subset that is known to be an explanation."""
        return [subset for subset in self.asked.values() if self.known(subset)]

    def met(self) -> list[Subset]:
        """Return the explaining sets known so far, without the empty one and the whole."""
        nothing: tuple[Subset, ...] = (frozenset(), frozenset(self.scope))
        return [subset for subset in self.found() if subset not in nothing]

    def n_asked(self) -> int:
        """Return how many sets of edges the model was asked about."""
        return sum(one in self.asker.memory for one in self.asked)

    def n_unknown(self, size: int) -> int:
        """Return how many subsets of one size were not asked yet."""
        asked = sum(len(subset) == size for subset in self.asked.values())
        return comb(len(self.scope), size) - asked

    def like(self, subset: Subset, n_sets: int, seed: int) -> list[Subset]:
        """Draw different sets with as many edges into each reader, without the set itself.

        Fewer than `n_sets` are returned where fewer exist.
        """
        rng = np.random.default_rng(seed)
        need: dict[int, int] = {}
        for item in sorted(subset):
            reader = int(self.items[item, 1])
            need[reader] = need.get(reader, 0) + 1
        groups = [(np.flatnonzero(self.items[:, 1] == r).tolist(), n) for r, n in need.items()]
        return draw(groups, subset, n_sets, rng)

    @cached_property
    def _special(self) -> list[int]:
        return [node for node, kind in enumerate(self.nodes.kinds) if kind == "special"]

    @cached_property
    def _inside(self) -> IntArray:
        """Content edges between the positions of one node."""
        node_of = self.nodes.node_of(self.edges.stop)
        pairs = self.edges.pairs
        ends = node_of[pairs]
        same: IntArray = pairs[(ends[:, 0] == ends[:, 1]) & (ends[:, 0] >= 0)]
        return same

    @cached_property
    def grouped(self) -> tuple[IntArray, IntArray]:
        """All pairs of positions, item by item (n, 2), and where each item's begin (items + 1)."""
        n, pairs = len(self.nodes), self.edges.pairs
        ends = self.nodes.node_of(self.edges.stop)[pairs]
        outside = (ends < 0).any(axis=1) | (ends[:, 0] == ends[:, 1])
        pairs, keys = pairs[~outside], (ends[:, 0] * n + ends[:, 1])[~outside]
        order = np.argsort(keys, kind="stable")
        own = self.items[:, 0] * n + self.items[:, 1]
        starts = np.searchsorted(keys[order], np.append(own, n * n))
        return pairs[order], starts.astype(np.int64)

    def _pairs(self, subset: Iterable[int]) -> IntArray:
        pairs, starts = self.grouped
        chosen = np.array(sorted(subset), dtype=np.int64)
        length = starts[chosen + 1] - starts[chosen]
        skipped = starts[chosen] - (np.cumsum(length) - length)
        found: IntArray = pairs[np.repeat(skipped, length) + np.arange(length.sum())]
        return found
