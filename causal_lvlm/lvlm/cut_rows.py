"""What does the model say when some edges are cut, or all but some?

Two interventions (`kind`), which answer different questions:

``mask``
    The row does not see the column: the weight of what is cut goes to the keys that stay, mostly
    to a sink (attention knockout, Geva et al., EMNLP 2023, arXiv:2304.14767).
``value``
    The row sees it, but reads nothing there: A[j, i] v_i is taken away from the output of row j
    alone, and every other weight stays what it was.

Two ways to compute the same:

1. ``block``: the whole sequence up to the last predicting row, with an explicit mask on top of the
   model's own. Rows before the first one that changes are the plain run's, whose keys and values
   are stored.
2. ``drop``: where all edges but some are masked, in all layers and heads, nothing reaches the
   target from a position that is none of its ancestors in what stays. Only ancestors and frame are
   computed, with their own positions; a graph of ten nodes costs the same whatever the image.

A cut of no edge is computed without a mask. The first use of a way on a trace is checked against
the plain one, as `causal_lvlm.lvlm.spotcheck` does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.edges import Cut, Edges
from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.batches import Batch, Group, SizeRule
from causal_lvlm.lvlm.plan import Plan, starts, whole
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.rows import Answers, compute
from causal_lvlm.tokens import Target

__all__ = ["CutRows", "edges_of", "masked_edges"]


def edges_of(prepared: Prepared, target: Target) -> Edges:
    """Return the edges that may be cut for a target.

    Raises
    ------
    UnsupportedModelError
        If some layers mix tokens without attention: what flows there cannot be cut.
    """
    if prepared.lvlm.only_drop:
        raise UnsupportedModelError(
            f"some layers of {prepared.lvlm.model_id!r} mix tokens without attention, so edges "
            "cannot be cut; leave tokens out with trace.evaluate instead"
        )
    return prepared.edges(target)


@dataclass(frozen=True)
class CutRows:
    """Cuts of one trace, and what is asked about them.

    Attributes
    ----------
    prepared : Prepared
    edges : Edges
    cuts : sequence of Cut
    kind : {"mask", "value"}
    layers : tuple of int or None
        Numbers of the attention layers in which they are cut; None: all.
    heads : tuple of int or None
        Heads of those layers; None: all.
    against : int or None
    rivals : tuple of int or None
        One token for each of the target's, read at its predicting row.
    name : str or None
        Of the intervention, where it has one of its own.
    """

    prepared: Prepared
    edges: Edges
    cuts: Sequence[Cut]
    kind: str = "mask"
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    against: int | None = None
    rivals: tuple[int, ...] | None = None
    name: str | None = None

    @property
    def masking(self) -> str:
        """What the intervention is called in a result."""
        return self.name or f"cut-{self.kind}"

    @property
    def target(self) -> Target:
        """What is asked for."""
        return self.edges.target

    @property
    def safe_backend(self) -> str:
        """The backend that rests on fewest assumptions."""
        return "block"

    @cached_property
    def changed(self) -> BoolArray:
        """Rows into which an edge is cut, bool (K, stop)."""
        return self.edges.n_cut(self.cuts) > 0

    @property
    def can_drop(self) -> bool:
        """Whether what is no ancestor of the target may be left out."""
        everywhere = self.kind == "mask" and self.layers is None and self.heads is None
        return everywhere and self.prepared.drop_is_exact

    def plan(self, rows: IntArray, backend: str, size: SizeRule, *, prefix: bool = True) -> Plan:
        """Divide some of the rows into groups: not cut at all, whole, or ancestors alone."""
        changed = self.changed[rows]
        some = changed.any(axis=1)
        drops = np.array([self.cuts[k].rest for k in rows], dtype=np.bool_) & some
        drops &= backend != "block" and self.can_drop
        first, reuse = starts(self.prepared, changed, self.target, prefix=prefix)
        groups, used = [], []
        for name, chosen in (("none", ~some), ("block", some & ~drops)):
            for group in whole(first[chosen], self.edges.stop, reuse, blocked=name == "block"):
                groups.append(replace(group, rows=rows[chosen][group.rows]))
                used.append(name)
        if drops.any():
            groups += self._dropped(rows[drops])
            used.append("drop")
        return Plan(groups, "+".join(n for n in used if n != "none") or "none", size)

    def _dropped(self, rows: IntArray) -> list[Group]:
        """Group the rows of which ancestors alone are computed, by how many these are."""
        kept = np.zeros((len(rows), self.edges.stop), dtype=np.bool_)
        for row, k in zip(kept, rows, strict=True):
            row[self.edges.ancestors(self.cuts[k])] = True
        lengths = kept.sum(axis=1)
        groups = []
        for length in np.unique(lengths):
            own = np.flatnonzero(lengths == length)
            start = np.zeros(len(own), dtype=np.int64)
            groups.append(Group(rows[own], start, int(length), kept[own], False, True))
        return groups

    def answers(self, n_rows: int, plan: Plan) -> Answers:
        """Compute a plan batch by batch."""
        return compute(
            self.prepared, self.target, self.against, plan, n_rows, self._run, self.rivals
        )

    def _run(self, batch: Batch) -> torch.Tensor:
        """Return logits of the predicting rows, (B, G, vocabulary)."""
        prepared = self.prepared
        positions = torch.tensor(batch.positions, device=prepared.embeds.device)
        cache = prepared.prefix(batch.prefix, len(batch.rows)) if batch.prefix else None
        recorder = Recorder(unmasked=self._untouched())
        if batch.blocked:
            seen = self._visible(batch.rows, batch.positions, batch.prefix)
            if self.kind == "mask":
                recorder.allowed = seen
            else:
                recorder.unread = ~seen
        with recording(recorder):
            return prepared.logits(
                prepared.embeds[0, positions], positions, len(self.edges.readers), cache
            )

    def allowed_keys(self, rows: IntArray) -> torch.Tensor:
        """Return which keys each query of the whole sequence may see, bool (B, 1 or H, Tq, Tk)."""
        shape = len(rows), self.edges.stop
        return self._visible(rows, np.broadcast_to(np.arange(self.edges.stop), shape))

    def _visible(self, rows: IntArray, positions: IntArray, prefix: int = 0) -> torch.Tensor:
        """Return what each position still reads, bool (B, 1 or H, Tq, Tk)."""
        seen = self.edges.visible([self.cuts[k] for k in rows], positions, prefix)[:, None]
        if self.heads is not None:
            n_heads = int(self.prepared.lvlm.text_config.num_attention_heads)
            chosen = np.isin(np.arange(n_heads), self.heads)
            seen = np.where(chosen[None, :, None, None], seen, True)
        return torch.tensor(seen, device=self.prepared.embeds.device)

    def _untouched(self) -> frozenset[int]:
        """Return ``id`` of the attention modules in which nothing is cut."""
        lvlm = self.prepared.lvlm
        if self.layers is None:
            return lvlm.cross_attention
        modules = enumerate(lvlm.attention_modules)
        return lvlm.cross_attention | {id(m) for i, m in modules if i not in self.layers}


def masked_edges(
    prepared: Prepared, keep: BoolArray, target: Target, against: int | None
) -> CutRows:
    """Return the cuts that ``masking="edges"`` stands for: of masked tokens into the target's rows.

    Parameters
    ----------
    prepared : Prepared
    keep : ndarray of bool, shape (K, T)
    target : Target
    against : int, optional
    """
    edges = edges_of(prepared, target)
    readers = np.array(edges.readers)
    closed = edges.content[readers] & ~keep[:, None, : edges.stop]
    number, reader, source = np.nonzero(closed)
    pairs = np.stack([source, readers[reader]], axis=1)
    bounds = np.searchsorted(number, np.arange(len(keep) + 1)).tolist()
    cuts = [Cut(pairs[a:b]) for a, b in pairwise(bounds)]
    return CutRows(prepared, edges, cuts, against=against, name="edges")
