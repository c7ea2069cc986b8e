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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from causal_lvlm.arrays import FloatArray, IntArray
from causal_lvlm.checks import whole_number
from causal_lvlm.covariance import TokenCorrelation, correlation_of_rows, find_sinks, partial_out
from causal_lvlm.errors import AttentionError, DegenerateTargetError
from causal_lvlm.source_options import (
    COMBINED,
    DEFAULT_ROWS,
    DEFAULT_THRESHOLDS,
    SPANNING,
    Layer,
    Row,
    Sink,
    Source,
    check_source,
)
from causal_lvlm.sources import Readable, SourceMatrix, source_matrices
from causal_lvlm.target_pass import TargetPass
from causal_lvlm.tokens import Target, TargetLike, TokenLayout, resolve_target

__all__ = ["TokenCorrelation", "attention_correlation", "attention_correlations"]

# A row that keeps less than this share of itself carries rounding errors only.
DEGENERATE_SHARE = 1e-12  # of squared norms


def attention_correlations(
    trace: Readable,
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
    kind = layer if isinstance(layer, str) and layer in COMBINED else source
    row = DEFAULT_ROWS[kind] if row is None else row
    if threshold is None and n_samples is None:
        threshold = DEFAULT_THRESHOLDS[kind]
    whole_number("pool", pool, 1)
    if top_k is not None:
        whole_number("top_k", top_k, 1)
    matrices = source_matrices(trace, chosen, source, layer, heads, passed)
    make = _Builder(
        trace.layout, chosen, source, sink, row, tiers, pool, top_k, min_attention, special,
        n_samples, threshold,
    )  # fmt: skip
    return tuple(make.correlation(matrix) for matrix in matrices)


def attention_correlation(
    trace: Readable, target: TargetLike, *, head: int | None = None, **options: Any
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
    combined = options.get("source") in SPANNING or options.get("layer") in COMBINED
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
    source: str
    sink: str
    row: str
    tiers: str
    pool: int
    top_k: int | None
    min_attention: float | None
    special: bool
    n_samples: int | None
    threshold: float | None

    @property
    def stop(self) -> int:
        """One beyond the position that stands for the target."""
        return self.target.start + (self.row == "own")

    def correlation(self, read: SourceMatrix) -> TokenCorrelation | DegenerateTargetError:
        """Return the correlation of one matrix, or why there is none."""
        try:
            return self._correlation(read)
        except DegenerateTargetError as error:
            return error

    def _correlation(self, read: SourceMatrix) -> TokenCorrelation:
        stop, sink = self.stop, self.sink
        weights = read.weights[:stop, :stop]
        values = None if read.values is None else read.values[:stop]
        last = stop - 1
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
            tiers=self._tiers_of(members),
            n_samples=self.n_samples,
            threshold=self.threshold,
            layer=read.layer,
            head=read.head,
            source=self.source,
            sink=sink,
            row=self.row,
            dropped=tuple(sorted(dropped)),
            sinks=sinks,
            sink_mass=float(to_sinks.sum(axis=1).mean()),
            candidate_mass=float(
                (weights[last, sorted(candidates - set(sinks))] / total[last]).sum()
            ),
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

    def _tiers_of(self, members: list[tuple[int, ...]]) -> IntArray:
        if self.tiers == "ordered":
            return np.arange(len(members), dtype=np.int64)
        # One tier per image block; every text token and the target get one of their own.
        keys: list[tuple[str, int]] = []
        for m in members[:-1]:
            cell = self.layout.patch_cell(m[0])
            keys.append(("image", self.layout.grids[cell[0]].image) if cell else ("text", m[0]))
        keys.append(("target", 0))
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
