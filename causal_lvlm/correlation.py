"""From attention to a correlation matrix over tokens.

1. Choose a matrix M whose row i says what token i took from every earlier token: one head's
   attention A (``source="attention"``, as published), the head's outputs A·V with centred rows
   (``"output"``), the target's relevancy matrix (``"relevancy"``: gradient-weighted attention
   composed over layers, Chefer et al. 2021, rules 5 and 6) or its influence matrix
   (``"influence"``: the same with absolute values, see `causal_lvlm.covariance`).
   ``layer="effective"`` composes plain attention over the layers with the residual path (rollout,
   Abnar & Zuidema 2020), ``layer="mean"`` averages it and adds the residual path.
2. Choose the nodes: text tokens, image tokens or k x k blocks of them, and as last node the
   target, for which either its own row stands (``row="own"``, CLEANN) or the row that predicts it
   (``row="predictor"``, LVLM-Interpret).
3. Treat attention sinks: keep them, leave their columns out, or partial their rows out.
4. The covariance proxy is C = M·Mᵀ (Rohekar et al., NeurIPS 2023, section 4), the result
   ``C[i, j] / sqrt(C[i, i] C[j, j])``. It does not change when rows of M are rescaled, and a
   subset of the nodes means some rows but all columns: tokens left out act as latent variables.

References
----------
.. [1] Rohekar, Gurwicz, Nisimov. Causal Interpretation of Self-Attention in Pre-Trained
   Transformers. NeurIPS 2023, arXiv 2310.20307.
.. [2] Ben Melech Stan et al. LVLM-Interpret. arXiv 2404.03118, 2024.
.. [3] Chefer, Gur, Wolf. Generic Attention-model Explainability. ICCV 2021, arXiv 2103.15679.
.. [4] Abnar, Zuidema. Quantifying Attention Flow in Transformers. ACL 2020, arXiv 2005.00928.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray, frozen
from causal_lvlm.checks import check_choice, nearest, shown, whole_number
from causal_lvlm.composition import SPANNING, TargetPass
from causal_lvlm.covariance import (
    correlation_of_rows,
    find_sinks,
    partial_out,
    source_matrices,
)
from causal_lvlm.errors import (
    AttentionError,
    DegenerateTargetError,
    OptionError,
    OptionTypeError,
)
from causal_lvlm.tokens import Target, TargetLike, TokenLayout, Units, resolve_target

__all__ = [
    "DEFAULT_THRESHOLDS",
    "TokenCorrelation",
    "attention_correlation",
    "attention_correlations",
    "correlation_of_rows",
    "find_sinks",
]

Source = Literal["attention", "output", "relevancy", "influence"]
_COMBINED = ("effective", "mean")  # layers as one
SOURCES = ("attention", "output", "relevancy", "influence")
Layer = int | Literal["global", "effective", "mean"]
Sink = Literal["keep", "drop", "condition"]
Row = Literal["own", "predictor"]

# Smallest |partial correlation| that counts as dependence, for each covariance source: chosen on
# the development split of experiments/first_light ("mean" and "influence": experiments/search),
# never on the pairs that a table reports.
DEFAULT_THRESHOLDS = {
    "attention": 0.3,
    "output": 0.3,
    "effective": 0.1,
    "mean": 0.01,
    "relevancy": 0.005,
    "influence": 0.03,
}
# The row that stands for the target where none is asked for: chosen on the same split.
DEFAULT_ROWS: dict[str, Row] = {
    "attention": "own",
    "output": "own",
    "effective": "predictor",
    "mean": "predictor",
    "relevancy": "predictor",
    "influence": "predictor",
}
# A row that keeps less than this share of itself carries rounding errors only.
DEGENERATE_SHARE = 1e-12  # of squared norms


@dataclass(frozen=True)
class TokenCorrelation:
    """A correlation matrix over tokens, and which positions its nodes are.

    Attributes
    ----------
    correlation : ndarray of float64, shape (N, N)
        Symmetric, unit diagonal. The target is the last node.
    positions : ndarray of int64, shape (N,)
        First sequence position of each node, ascending (for ``row="predictor"`` the last node is
        the predicting position, which stands for the target).
    members : tuple of tuple of int
        All positions of each node (more than one for pooled image blocks).
    tiers : ndarray of int64, shape (N,)
        Non-decreasing; nodes of one tier are unordered among themselves.
    n_samples : int or None
        Samples behind the correlation, None where the dependence threshold is given directly.
    threshold : float or None
        Smallest |partial correlation| that counts, where given directly.
    layer : int or "effective" or "mean" or None
        None for ``source="relevancy"`` and ``"influence"``, which span all layers.
    head : int or None
        None where there is no single head.
    source, sink, row : str
    dropped : tuple of (int, str)
        Position and reason of every token before the target that is no node.
    sinks : tuple of int
        Positions that were found to be attention sinks.
    sink_mass : float
        Mean share of weight that the rows of the nodes give to the sinks.
    candidate_mass : float
        Share of the weight of the target's row that falls on the nodes other than sinks and the
        target itself: how much this head looks at what may explain the target. NaN if unknown.
    """

    correlation: FloatArray
    positions: IntArray
    members: tuple[tuple[int, ...], ...]
    tiers: IntArray
    n_samples: int | None
    threshold: float | None
    layer: int | str | None
    head: int | None
    source: str
    sink: str
    row: str
    dropped: tuple[tuple[int, str], ...]
    sinks: tuple[int, ...]
    sink_mass: float
    candidate_mass: float = math.nan

    def __post_init__(self) -> None:
        """Freeze the arrays and check their shapes."""
        object.__setattr__(self, "correlation", frozen(self.correlation, np.float64))
        object.__setattr__(self, "positions", frozen(self.positions, np.int64))
        object.__setattr__(self, "tiers", frozen(self.tiers, np.int64))
        n = len(self.members)
        if self.correlation.shape != (n, n) or self.positions.shape != (n,):
            raise ValueError(
                f"{n} nodes need a ({n}, {n}) correlation and ({n},) positions, got "
                f"{self.correlation.shape} and {self.positions.shape}"
            )

    @property
    def target_node(self) -> int:
        """Node that stands for the target: the last one."""
        return len(self.members) - 1


def attention_correlations(
    trace: Any,
    target: TargetLike,
    *,
    heads: Literal["all"] | Sequence[int] = "all",
    layer: Layer = -1,
    source: Source = "attention",
    sink: Sink = "keep",
    row: Row | None = None,
    tiers: Literal["ordered", "image-block"] = "ordered",
    pool: int = 1,
    top_k: int | None = None,
    min_attention: float | None = None,
    special: bool = False,
    n_samples: int | None = None,
    threshold: float | None = None,
    passed: TargetPass | None = None,
) -> tuple[TokenCorrelation | DegenerateTargetError, ...]:
    """Return one correlation per head (one in all for sources that combine layers and heads).

    A head in which the target's row is degenerate yields the error instead of raising it, so that
    the other heads are not lost. See `attention_correlation` for the parameters; `passed` is a
    pass for this target and source that somebody needs more of.
    """
    chosen = resolve_target(trace.layout, target)
    check_source(source, layer, heads, row, sink, tiers, n_samples, threshold)
    kind = layer if isinstance(layer, str) and layer in _COMBINED else source
    row = DEFAULT_ROWS[kind] if row is None else row
    if threshold is None and n_samples is None:
        threshold = DEFAULT_THRESHOLDS[kind]
    whole_number("pool", pool, 1)
    if top_k is not None:
        whole_number("top_k", top_k, 1)
    stop = chosen.start + 1 if row == "own" else chosen.start
    results: list[TokenCorrelation | DegenerateTargetError] = []
    for head, weights, values, layer_used in source_matrices(
        trace, chosen, source, layer, heads, passed
    ):
        builder = _Builder(trace.layout, chosen, stop, row, pool, top_k, min_attention, special)
        try:
            results.append(
                builder.build(
                    weights[:stop, :stop],
                    None if values is None else values[:stop],
                    source=source,
                    sink=sink,
                    tiers=tiers,
                    n_samples=n_samples,
                    threshold=threshold,
                    head=head,
                    layer=layer_used,
                )
            )
        except DegenerateTargetError as error:
            results.append(error)
    return tuple(results)


def check_source(
    source: Any, layer: Any, heads: Any, row: Any, sink: Any, tiers: Any, n_samples: Any,
    threshold: Any,
) -> None:  # fmt: skip
    """Refuse a covariance source that no model could have; see `attention_correlation`.

    Raises
    ------
    OptionError, OptionTypeError
        If a value is not allowed, or ruled out by another one.
    """
    check_choice("source", source, SOURCES)
    check_choice("sink", sink, ("keep", "drop", "condition"))
    check_choice("tiers", tiers, ("ordered", "image-block"))
    if row is not None:
        check_choice("row", row, ("own", "predictor"))
    _check_layer(layer)
    every = isinstance(heads, str) and heads == "all"
    if not every:
        _check_heads(heads)
    if source in SPANNING and layer != -1:
        raise OptionError(f"source={source!r} spans all layers; layer={layer!r} has no effect")
    if isinstance(layer, str) and layer in _COMBINED and source != "attention":
        raise OptionError(f"layer={layer!r} combines attention; source={source!r} has no such")
    if not every and (source in SPANNING or layer in _COMBINED):
        raise OptionError(f"heads={shown(heads)} was given, but this source combines all heads")
    if source in SPANNING and row == "own":
        raise OptionError(
            f"row='own' has no place in source={source!r}: the target's own row comes after its "
            f"prediction, so its {source} is zero; use row='predictor'"
        )
    if threshold is not None and n_samples is not None:
        raise OptionError("give either threshold or n_samples (with alpha), not both")


def _check_layer(layer: Any) -> None:
    words = ("global", *_COMBINED)
    text = f"layer must be a number, {', '.join(map(repr, words))}; got {shown(layer)}"
    if isinstance(layer, str):
        if layer not in words:
            raise OptionError(text + nearest(layer, words))
    elif isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
        raise OptionTypeError(text)


def _check_heads(heads: Any) -> None:
    try:
        chosen = None if isinstance(heads, str) else list(heads)
    except TypeError:
        chosen = None
    if not chosen:
        raise OptionTypeError(f"heads must be 'all' or a list of heads, got {shown(heads)}")
    numbers = [whole_number("each of heads", head, 0) for head in chosen]
    if len(set(numbers)) < len(numbers):
        raise OptionError(f"heads must be different from each other, got {shown(heads)}")


def attention_correlation(
    trace: Any, target: TargetLike, *, head: int | None = None, **options: Any
) -> TokenCorrelation:
    """Correlation matrix over the tokens that may explain a target, from one head.

    Parameters
    ----------
    trace : Trace
    target : str, int, slice, Target or callable
        See `causal_lvlm.tokens.resolve_target`. The first target token is the last node.
    head : int, optional
        Needed for one layer's attention or outputs; must be left out for ``layer="effective"``,
        ``layer="mean"``, ``source="relevancy"`` and ``source="influence"``: they combine the heads.
    layer : int, "effective" or "mean", default -1
    source : {"attention", "output", "relevancy", "influence"}
    sink : {"keep", "drop", "condition"}
        For a sink at position 0 of a causal model "drop" and "condition" are the same for
        ``source="attention"``, because row 0 is a unit vector.
    row : {"predictor", "own"}, optional
        Default `DEFAULT_ROWS` of the source. ``"own"`` is not available for relevancy and
        influence.
    tiers : {"ordered", "image-block"}
        Whether image tokens are ordered by raster position or share one tier per image.
    pool : int
        Image tokens enter as blocks of pool x pool cells.
    top_k : int, optional
        Keep only the k image nodes with the largest weight in the target's row.
    min_attention : float, optional
        Keep only nodes with at least this weight in the target's row.
    special : bool
        Whether special and template tokens are nodes too.
    n_samples : int, optional
    threshold : float, optional
        Smallest |partial correlation| that counts as dependence; default `DEFAULT_THRESHOLDS` of
        the source where `n_samples` is not given either.

    Returns
    -------
    TokenCorrelation

    Raises
    ------
    AttentionError
        If the weights hold NaN, or a head or layer does not exist.
    DegenerateTargetError
        If the target's row is zero, so that it has no correlation with anything.
    TargetError
        If the target is not in the answer.
    """
    combined = options.get("source") in SPANNING or options.get("layer") in ("effective", "mean")
    if combined and head is not None:
        raise AttentionError(f"head {head} was given, but this source combines all heads: omit it")
    if not combined and head is None:
        raise AttentionError("one head must be chosen: pass head=0, 1, ...")
    heads: Any = "all" if head is None else [head]
    (result,) = attention_correlations(trace, target, heads=heads, **options)
    if isinstance(result, DegenerateTargetError):
        raise result
    return result


@dataclass(frozen=True)
class _Builder:
    """Chooses the nodes of one target and turns a matrix of weights into their correlation."""

    layout: TokenLayout
    target: Target
    stop: int
    row: str
    pool: int
    top_k: int | None
    min_attention: float | None
    special: bool

    def build(
        self,
        weights: FloatArray,
        values: FloatArray | None,
        *,
        source: str,
        sink: str,
        tiers: str,
        **record: Any,
    ) -> TokenCorrelation:
        last = self.stop - 1
        sinks = find_sinks(weights)
        members, dropped = self._nodes(weights[last])
        whole = rows = weights if values is None else self._centred(weights @ values)
        if sink == "drop" and sinks:
            kept = weights.copy()
            kept[:, list(sinks)] = 0.0
            rows = kept if values is None else self._centred(kept @ values)
        nodes = _mean_rows(rows, members)
        # What a node had before anything was taken away: rounding errors of that are nothing.
        before = _squares(nodes if rows is whole else _mean_rows(whole, members))
        if sink == "condition" and sinks:
            nodes = partial_out(nodes, rows[list(sinks)])
        norms = _squares(nodes)
        alive = norms > DEGENERATE_SHARE * np.maximum(before, 1e-300)
        if not alive[-1]:
            raise DegenerateTargetError(
                f"the row of position {last}, which stands for the target {self.target.text!r}, "
                f"is zero after sink={sink!r} (sinks at {sinks}); use sink='keep' or another layer"
            )
        dropped += [
            (p, "degenerate row") for m, ok in zip(members, alive, strict=True) if not ok for p in m
        ]
        members = [m for m, ok in zip(members, alive, strict=True) if ok]
        candidates = {p for m in members[:-1] for p in m}
        total = np.maximum(weights.sum(axis=1), 1e-300)
        to_sinks = weights[:, list(sinks)] / total[:, None]
        return TokenCorrelation(
            correlation=correlation_of_rows(nodes[alive]),
            positions=np.array([m[0] for m in members]),
            members=tuple(members),
            tiers=self._tiers(members, tiers),
            source=source,
            sink=sink,
            row=self.row,
            dropped=tuple(sorted(dropped)),
            sinks=sinks,
            sink_mass=float(to_sinks.sum(axis=1).mean()),
            candidate_mass=float(
                (weights[last, sorted(candidates - set(sinks))] / total[last]).sum()
            ),
            **record,
        )

    @staticmethod
    def _centred(rows: FloatArray) -> FloatArray:
        centred: FloatArray = rows - rows.mean(axis=1, keepdims=True)
        return centred

    def _nodes(self, target_row: FloatArray) -> tuple[list[tuple[int, ...]], list[tuple[int, str]]]:
        """Return the members of every node (the target last), and what was left out."""
        dropped: list[tuple[int, str]] = []
        blocks: dict[tuple[int, ...], list[int]] = {}
        for p in range(self.stop - 1):
            if self.layout.modality[p] == "special" and not self.special:
                dropped.append((p, "special or template token"))
                continue
            cell = self.layout.patch_cell(p) if self.pool > 1 else None
            key = (
                (1, p) if cell is None else (0, cell[0], cell[1] // self.pool, cell[2] // self.pool)
            )
            blocks.setdefault(key, []).append(p)
        nodes = sorted(tuple(sorted(block)) for block in blocks.values())
        weight = {m: float(target_row[list(m)].sum()) for m in nodes}
        if self.min_attention is not None:
            for m in [m for m in nodes if weight[m] < self.min_attention]:
                nodes.remove(m)
                dropped += [(p, f"weight below {self.min_attention}") for p in m]
        if self.top_k is not None:
            image = [m for m in nodes if self.layout.modality[m[0]] == "image"]
            # Ties go to the earlier position, so that the choice never depends on sorting details.
            for m in sorted(image, key=lambda m: (-weight[m], m))[self.top_k :]:
                nodes.remove(m)
                dropped += [(p, f"not among the top {self.top_k} image nodes") for p in m]
        return [*nodes, (self.stop - 1,)], dropped

    def _tiers(self, members: list[tuple[int, ...]], tiers: str) -> IntArray:
        if tiers == "ordered":
            return np.arange(len(members), dtype=np.int64)
        # One tier per image block; every text token and the target get one of their own.
        keys: list[Any] = []
        for m in members[:-1]:
            cell = self.layout.patch_cell(m[0])
            keys.append(("image", self.layout.grids[cell[0]].image) if cell else ("text", m[0]))
        keys.append(("target",))
        numbers = np.zeros(len(keys), dtype=np.int64)
        for node in range(1, len(keys)):
            numbers[node] = numbers[node - 1] + (keys[node] != keys[node - 1])
        return numbers


def _mean_rows(rows: FloatArray, members: Sequence[tuple[int, ...]]) -> FloatArray:
    """Return the mean of some rows for each node, shape (N, D)."""
    found: FloatArray = rows[[m[0] for m in members]]
    for node, positions in enumerate(members):
        if len(positions) > 1:
            found[node] = rows[list(positions)].mean(axis=0)
    return found


def _squares(rows: FloatArray) -> FloatArray:
    squares: FloatArray = np.einsum("ij,ij->i", rows, rows)
    return squares


def nodes_to_units(correlation: TokenCorrelation, units: Units) -> tuple[int | None, ...]:
    """Return for each node the unit it stands for, or None (frame, target, or no candidate)."""
    unit_of = units.unit_of()
    return tuple(
        None
        if node == correlation.target_node
        else next((unit_of[p] for p in members if p in unit_of), None)
        for node, members in enumerate(correlation.members)
    )
