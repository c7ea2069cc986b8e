"""Attention whose causal graph is known, and its true PAG by definition.

1. A structure is a linear model over tokens in sequence order, ``x = W x + e`` with unit noise and
   ``W[i, j] >= 0`` the effect of j on i (only earlier tokens have effects on later ones). Its
   mixing ``M = (I - W)^-1`` is lower triangular without negative entries, so ``A = D^-1 M`` with
   rows that sum to one is causal attention, and ``A A^T`` has exactly the correlation of the model:
   rows are rescaled, which correlations do not notice (Rohekar et al., CLEANN, NeurIPS 2023,
   section 4, read backwards). Latent tokens are in the sequence but are no nodes.
2. The truth is derived from the structure by definition, not by a learner. Two observed tokens are
   adjacent exactly if their observed ancestors do not d-separate them (Richardson & Spirtes,
   Annals of Statistics 30, 2002, theorem 4.2).
3. Then every way to put marks on that skeleton is tried: an arrowhead at the later end, either mark
   at the earlier one. Kept are the ancestral graphs in which each separated pair is m-separated by
   the same set. They are the Markov equivalence class within the order: skeleton and separating
   sets determine the PAG (Zhang, Artificial Intelligence 172, 2008), so graphs that share them are
   equivalent. A mark that all of them share is in the true PAG, otherwise there is a circle.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import networkx as nx
import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.checks import whole_number
from causal_lvlm.errors import AttentionError
from causal_lvlm.structure import PAG
from causal_lvlm.structure.marks import ARROW, CIRCLE, TAIL
from causal_lvlm.tokens import TargetLike, TokenLayout

__all__ = ["KnownStructure", "KnownTrace", "random_structure"]

MOST_EDGES = 16  # 2^16 ways to put marks
EFFECTS = (0.4, 1.2)


@dataclass(frozen=True, eq=False)
class KnownStructure:
    """A linear causal model over tokens, in the order of the sequence; the last is the target.

    Parameters
    ----------
    weights : array_like of shape (V, V)
        ``weights[i, j]`` is the effect of token j on token i; not negative, zero unless j < i.
    latent : sequence of int
        Tokens that are no nodes of the graph; never the target.

    Raises
    ------
    ValueError
        If the weights are no such matrix, or the target is latent.
    """

    weights: FloatArray
    latent: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Freeze and check."""
        object.__setattr__(self, "weights", frozen(self.weights, np.float64))
        object.__setattr__(self, "latent", tuple(sorted(int(k) for k in self.latent)))
        w = self.weights
        if w.ndim != 2 or w.shape[0] != w.shape[1] or len(w) < 2:
            raise ValueError(f"weights must be a square matrix of two or more, got {w.shape}")
        if not np.isfinite(w).all() or (w < 0).any() or np.triu(w).any():
            raise ValueError(
                "weights[i, j] must be the effect of an earlier token j on i: finite, not negative "
                "(attention is not), zero for j >= i"
            )
        if any(not 0 <= k < len(w) - 1 for k in self.latent):
            raise ValueError(f"latent tokens must be among 0..{len(w) - 2}, got {self.latent}")

    @property
    def observed(self) -> IntArray:
        """Tokens that are nodes, ascending; the target is the last."""
        return np.setdiff1d(np.arange(len(self.weights)), self.latent).astype(np.int64)

    @cached_property
    def dag(self) -> nx.DiGraph:
        """The graph of the structure, latent tokens included."""
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(self.weights)))
        graph.add_edges_from((int(j), int(i)) for i, j in np.argwhere(self.weights))
        return graph

    def attention(self, *, noise: float = 0.0, seed: int = 0) -> FloatArray:
        """Return attention (V, V) whose rows mix as the structure does.

        Parameters
        ----------
        noise : float in [0, 1)
            Share of each row's weight that is random attention to itself and earlier tokens.
        seed : int

        Raises
        ------
        ValueError
            If `noise` is out of range.
        """
        if not 0.0 <= noise < 1.0:
            raise ValueError(f"noise must lie in [0, 1), got {noise}")
        mixing = np.linalg.inv(np.eye(len(self.weights)) - self.weights)
        rows: FloatArray = np.tril(np.maximum(mixing, 0.0))  # rounding leaves -0.0 and the like
        rows /= rows.sum(axis=1, keepdims=True)
        if noise:
            rng = np.random.default_rng(whole_number("seed", seed, 0))
            other = np.tril(rng.exponential(size=rows.shape))
            rows = (1 - noise) * rows + noise * other / other.sum(axis=1, keepdims=True)
        return rows

    def ancestors(self) -> frozenset[int]:
        """Return the observed tokens with a directed path to the target."""
        return frozenset(nx.ancestors(self.dag, len(self.weights) - 1)) - set(self.latent)

    def parents(self) -> frozenset[int]:
        """Return the observed tokens with a path to the target that is directed and hidden.

        An arc, or a directed path through latent tokens only.
        """
        found: set[int] = set()
        front = [len(self.weights) - 1]
        while front:
            for j in self.dag.predecessors(front.pop()):
                if j in self.latent:
                    front.append(j)
                else:
                    found.add(j)
        return frozenset(found)

    def true_pag(self) -> PAG:
        """Return the PAG over the observed tokens that the order and all separations determine.

        Raises
        ------
        ValueError
            If the structure has more than 16 edges over its observed tokens.
        """
        return self._truth

    @cached_property
    def _truth(self) -> PAG:
        nodes = self.observed.tolist()
        edges, separators = [], {}
        for i, j in itertools.combinations(range(len(nodes)), 2):
            pair = {nodes[i], nodes[j]}
            above = set().union(*(nx.ancestors(self.dag, v) for v in pair))
            given = (above & set(nodes)) - pair
            if nx.is_d_separator(self.dag, {nodes[i]}, {nodes[j]}, given):
                separators[i, j] = {nodes.index(v) for v in given}
            else:
                edges.append((i, j))
        if len(edges) > MOST_EDGES:
            raise ValueError(
                f"the structure has {len(edges)} edges over its observed tokens; the truth is "
                f"found by trying all marks, which is done up to {MOST_EDGES}: make it sparser"
            )
        marks = np.zeros((len(nodes), len(nodes)), dtype=np.uint8)
        seen: dict[tuple[int, int], set[int]] = {edge: set() for edge in edges}
        for early in _orientations(len(nodes), edges, separators):
            for edge, mark in early.items():
                seen[edge].add(mark)
        for (i, j), found in seen.items():
            marks[i, j] = ARROW
            marks[j, i] = found.pop() if len(found) == 1 else CIRCLE
        return PAG(marks)

    def trace(self, *, noise: float = 0.0, seed: int = 0) -> KnownTrace:
        """Return a stand-in for a trace with this attention, for `attention_correlation`."""
        size = len(self.weights)
        modality = ["special" if k in self.latent else "prompt" for k in range(size - 1)]
        layout = TokenLayout(
            tokens=tuple(f"x{k}" for k in range(size)),
            token_ids=np.arange(size),
            modality=np.array([*modality, "generated"]),
            grids=(),
            words=np.arange(size),
            n_prompt=size - 1,
        )
        return KnownTrace(layout, self.attention(noise=noise, seed=seed))


@dataclass(frozen=True, eq=False)
class KnownTrace:
    """One layer with one head whose attention is given; no model behind it."""

    layout: TokenLayout
    weights: FloatArray
    model_id: str = "known structure"
    n_layers: int = 1
    global_layer: int = 0

    def layer_remark(self, layer: int, /) -> None:
        """Return None: the layer sees the whole sequence."""

    def attention(self, layers: int | str | Sequence[int | str] = (-1,)) -> FloatArray:
        """Return the attention, shape (L, 1, V, V)."""
        return np.stack([self.weights[None]] * np.size(layers))

    def iter_attention(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield the one layer, shape (1, V, V)."""
        yield 0, self.weights[None]

    def head_values(self, layer: int = -1) -> FloatArray:
        """Return values (1, V, V) that make each head's output its attention."""
        return np.eye(len(self.weights))[None]

    def backward(self, target: TargetLike, **options: object) -> NoReturn:
        """Refuse: without a model there is no gradient."""
        raise AttentionError("a known structure has attention only; use source='attention'")


def random_structure(
    n_observed: int, *, n_latent: int = 0, degree: float = 2.0, seed: int = 0
) -> KnownStructure:
    """Return a random structure.

    Parameters
    ----------
    n_observed : int
        Nodes, the target included.
    n_latent : int
        Latent tokens; those with most effects are chosen, as others leave no trace.
    degree : float
        Expected number of arcs at a token.
    seed : int

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    size = whole_number("n_observed", n_observed, 2) + whole_number("n_latent", n_latent, 0)
    if not 0.0 <= degree <= size - 1:
        raise ValueError(f"degree must lie between 0 and {size - 1}, got {degree}")
    rng = np.random.default_rng([whole_number("seed", seed, 0), size])
    present = np.tril(rng.random((size, size)) < degree / (size - 1), -1)
    weights = present * rng.uniform(*EFFECTS, size=(size, size))
    effects = present.sum(axis=0)[:-1]
    latent = np.argsort(-effects, kind="stable")[:n_latent]
    return KnownStructure(weights, tuple(int(k) for k in latent))


def _orientations(
    n: int, edges: Sequence[tuple[int, int]], separators: dict[tuple[int, int], set[int]]
) -> Iterator[dict[tuple[int, int], int]]:
    """Yield the marks at the earlier ends of every ancestral graph with these separations."""
    near = set(edges)
    # Of an unshielded triple i - k - j the middle is a collider exactly if no separator holds it.
    middles = [
        (i, k, j, k not in given)
        for (i, j), given in separators.items()
        for k in range(n)
        if tuple(sorted((i, k))) in near and tuple(sorted((k, j))) in near
    ]
    for choice in itertools.product((TAIL, ARROW), repeat=len(edges)):
        early = dict(zip(edges, choice, strict=True))
        if any(_into(early, i, k) and _into(early, j, k) for i, k, j, no in middles if not no):
            continue
        if not all(_into(early, i, k) and _into(early, j, k) for i, k, j, yes in middles if yes):
            continue
        graph = nx.DiGraph()
        graph.add_nodes_from(range(n))
        graph.add_edges_from(edge for edge, mark in early.items() if mark == TAIL)
        both = [edge for edge, mark in early.items() if mark == ARROW]
        if any(nx.has_path(graph, i, j) for i, j in both):
            continue  # not ancestral
        for i, j in both:  # i <-> j is a latent cause of both
            graph.add_edges_from([((i, j), i), ((i, j), j)])
        if all(nx.is_d_separator(graph, {i}, {j}, given) for (i, j), given in separators.items()):
            yield early


def _into(early: dict[tuple[int, int], int], i: int, k: int) -> bool:
    """Whether the edge between i and k has an arrowhead at k."""
    return i < k or early[k, i] == ARROW
