"""A trace whose "model" is one layer of attention over few tokens: every set of edges is tried."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from types import SimpleNamespace
from typing import Any

import numpy as np

from causal_lvlm.edges import Cut, Edges, Nodes
from causal_lvlm.results import Evaluation
from causal_lvlm.tokens import ImageGrid, TokenLayout
from tests.explanation.fakes import OTHER, SAID, FakeTrace

Pair = tuple[int, int]


def layout(rows: int = 1, cols: int = 2, sep: bool = True) -> TokenLayout:
    """Frame, image grid, a word, a special token (or none), a word, frame, a generated token."""
    n_image = rows * cols
    middle = ["w0", "<sep>", "w1"] if sep else ["w0", "w1"]
    tokens = ["<s>", *["<image>"] * n_image, *middle, ":", "red"]
    kinds = {"<s>": "special", "<sep>": "special", ":": "special", "<image>": "image",
             "red": "generated"}  # fmt: skip
    modality = [kinds.get(t, "prompt") for t in tokens]
    boxes = [[10.0 * c, 10.0 * r, 10.0 * c + 10, 10.0 * r + 10]
             for r in range(rows) for c in range(cols)]  # fmt: skip
    grid = ImageGrid(
        image=0, tile=0, rows=rows, cols=cols, positions=np.arange(1, 1 + n_image),
        boxes=np.array(boxes), image_size=(10 * cols, 10 * rows),
    )  # fmt: skip
    words = [k if m in ("prompt", "generated") else -1 for k, m in enumerate(modality)]
    ids = [0] * (len(tokens) - 1) + [SAID]
    return TokenLayout(tuple(tokens), np.array(ids), np.array(modality), (grid,), np.array(words),
                       len(tokens) - 1)  # fmt: skip


@dataclass
class EdgeTrace(FakeTrace):
    """Each token's state is a function of what it reads; the last row's sign says SAID or OTHER.

    ``hungry`` makes reading matter, so that few answers stay with every edge cut.
    """

    keeps: Any = None
    layout: TokenLayout = field(default_factory=layout)
    hungry: float = -0.4
    cuts_asked: list[Cut] = field(default_factory=list)
    calls: int = 0
    regenerated: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        length = len(self.layout)
        self.weight = rng.normal(size=(length, length)) * 1.5
        self.bias = rng.normal(size=length)

    def edges(self, target: Any) -> Edges:
        length = len(self.layout)
        return Edges(self.layout, target, np.tril(np.ones((length, length), dtype=bool)))

    def closed(self, one: Cut) -> np.ndarray:
        """Return which (reader, source) are cut, by the definition, one pair at a time."""
        stop = len(self.layout) - 1
        named = {tuple(p) for p in one.pairs.tolist()}
        closed = np.zeros((stop, stop), dtype=bool)
        for reader in range(stop):
            for source in range(reader):
                if self.layout.modality[source] != "special":
                    closed[reader, source] = ((source, reader) in named) != one.rest
        return closed

    def lead(self, closed: np.ndarray) -> float:
        """Return the margin of SAID."""
        state: list[float] = []
        for row in range(len(closed)):
            reads = sum(self.weight[row, k] * state[k] for k in range(row) if not closed[row, k])
            state.append(float(np.tanh(self.bias[row] + reads)))
        row = len(closed) - 1
        reads = sum(self.weight[row, k] * state[k] for k in range(row) if not closed[row, k])
        return float(self.hungry + reads) * 3.0

    def evaluate(self, keep: np.ndarray, target: Any, **options: Any) -> Evaluation:
        assert keep.all()
        return self.answer([Cut(np.zeros((0, 2), dtype=np.int64))], "remove", None)

    def evaluate_edges(self, cuts: Any, target: Any, **options: Any) -> Evaluation:
        wanted = [cuts] if isinstance(cuts, Cut) else list(cuts)
        self.calls += 1
        if self.interrupt_at is not None and self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        self.cuts_asked += wanted
        return self.answer(wanted, "cut-mask", options.get("rivals"))

    def answer(self, cuts: Sequence[Cut], masking: str, rivals: Any) -> Evaluation:
        lead = np.array([self.lead(self.closed(one)) for one in cuts])[:, None]
        said, other = -np.logaddexp(0, -lead), -np.logaddexp(0, lead)
        return Evaluation(
            token_log_probs=said, argmax=np.where(lead > 0, SAID, OTHER), margin=lead,
            runner_up=np.full(lead.shape, OTHER), top_log_prob=np.maximum(said, other),
            against_log_prob=other[:, 0], runs=len(cuts), masking=masking, backend="fake",
            rival_log_probs=None if rivals is None else other,
        )  # fmt: skip

    def regenerate(self, target: Any, **options: Any) -> Any:
        self.regenerated += 1
        return SimpleNamespace(text="blue")


def pairs_between(trace: EdgeTrace, nodes: Nodes, source: int, reader: int) -> list[Pair]:
    """Return the pairs of positions of an edge between nodes, by the definition."""
    stop = len(trace.layout) - 1
    return [
        (s, r) for s in nodes.members[source] for r in nodes.members[reader]
        if s < r < stop and trace.layout.modality[s] != "special"
    ]  # fmt: skip


def node_edges(trace: EdgeTrace, nodes: Nodes) -> list[Pair]:
    """Return all edges between different nodes, by the definition."""
    numbers = range(len(nodes))
    return [
        (a, b) for a in numbers for b in numbers if a != b and pairs_between(trace, nodes, a, b)
    ]


def inside_pairs(trace: EdgeTrace, nodes: Nodes) -> list[Pair]:
    """Return the pairs between positions of one node."""
    return [p for node in range(len(nodes)) for p in pairs_between(trace, nodes, node, node)]


def passes(trace: EdgeTrace, nodes: Nodes, mode: str, chosen: Iterable[Pair]) -> bool:
    """Tell whether a set of edges between nodes is an explanation, from scratch."""
    pairs = [p for a, b in chosen for p in pairs_between(trace, nodes, a, b)]
    if mode == "sufficient":
        one = Cut(np.array(pairs + inside_pairs(trace, nodes), dtype=np.int64), rest=True)
        return trace.lead(trace.closed(one)) > 0
    return trace.lead(trace.closed(Cut(np.array(pairs, dtype=np.int64)))) <= 0


def by_size(items: Sequence[Pair]) -> Iterator[tuple[Pair, ...]]:
    """Yield every set of edges, small ones first."""
    return chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))


def smallest(trace: EdgeTrace, nodes: Nodes, mode: str) -> int | None:
    """Return the size of the smallest explaining set of edges; None if none explains."""
    for chosen in by_size(node_edges(trace, nodes)):
        if passes(trace, nodes, mode, chosen):
            return len(chosen)
    return None
