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
from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.edges import Cut, Edges
from causal_lvlm.errors import OptionError, UnsupportedModelError
from causal_lvlm.lvlm.answered import answered
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.batches import Batch, Group, SizeRule
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.memory import parse_memory
from causal_lvlm.lvlm.plan import Plan, starts, whole
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.rows import Answers, compute
from causal_lvlm.results import Evaluation
from causal_lvlm.tokens import Target, TargetLike

__all__ = ["KINDS", "CutRows", "Cuts", "edges_of", "masked_edges"]

KINDS = ("mask", "value")
BACKENDS = ("auto", "block")


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
    return Edges(prepared.layout, target, prepared.readable())


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
        return np.array([self.edges.n_cut(one) > 0 for one in self.cuts]).reshape(
            len(self.cuts), self.edges.stop
        )

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
            seen = torch.tensor(self._visible(batch), device=positions.device)
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
        positions = np.broadcast_to(np.arange(self.edges.stop), (len(rows), self.edges.stop))
        seen = self._visible(Batch(rows, 0, positions, blocked=True))
        return torch.tensor(seen, device=self.prepared.embeds.device)

    def _visible(self, batch: Batch) -> BoolArray:
        """Return what each row still reads, bool (B, 1 or H, Tq, Tk)."""
        before = np.arange(batch.prefix)
        seen = np.stack(
            [
                self.edges.visible(self.cuts[k], rows, np.concatenate([before, rows]))
                for k, rows in zip(batch.rows, batch.positions, strict=True)
            ]
        )[:, None]
        if self.heads is None:
            return seen
        n_heads = int(self.prepared.lvlm.text_config.num_attention_heads)
        chosen = np.isin(np.arange(n_heads), self.heads)
        return np.where(chosen[None, :, None, None], seen, True)

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
    cuts = []
    for row in keep[:, : edges.stop]:
        reader, source = np.nonzero(edges.content[readers] & ~row)
        cuts.append(Cut(np.stack([source, readers[reader]], axis=1)))
    return CutRows(prepared, edges, cuts, against=against, name="edges")


def _checked_rivals(rivals: Sequence[int], target: Target, lvlm: Backbone) -> tuple[int, ...]:
    found = tuple(lvlm.token_id(int(r)) for r in rivals)
    if len(found) != len(target.positions):
        raise OptionError(
            f"rivals must be one token for each of the target's {len(target.positions)}, got "
            f"{len(found)}"
        )
    return found


def _checked_heads(config: Any, heads: Sequence[int]) -> tuple[int, ...]:
    n_heads = int(config.num_attention_heads)
    found = tuple(int(h) for h in heads)
    if not found or any(not 0 <= h < n_heads for h in found):
        raise OptionError(f"heads must be some of 0..{n_heads - 1}, got {list(heads)}")
    return found


class Cuts(Live):
    """The target again, with edges cut."""

    def edges(self, target: TargetLike) -> Edges:
        """Return the edges that may be cut for a target.

        Parameters
        ----------
        target : TargetLike

        Raises
        ------
        UnsupportedModelError
            If some layers mix tokens without attention: what flows there cannot be cut.
        """
        return edges_of(self.prepared, self.target(target))

    def evaluate_edges(
        self,
        cuts: Cut | Sequence[Cut],
        target: TargetLike,
        *,
        kind: str = "mask",
        layers: int | str | Sequence[int | str] | None = None,
        heads: Sequence[int] | None = None,
        against: int | str | None = None,
        rivals: Sequence[int] | None = None,
        backend: str = "auto",
        batch_size: int | None = None,
        max_memory: int | str | None = None,
    ) -> Evaluation:
        """Evaluate the target, teacher-forced, with edges cut.

        Parameters
        ----------
        cuts : Cut, or sequence of Cut
            One row each. `causal_lvlm.edges.cut` takes edges away, `all_but` takes all others away.
        target : TargetLike
        kind : {"mask", "value"}
            ``mask``: the row does not see the column, and what is cut goes to the keys that stay.
            ``value``: it reads nothing there, and every other weight stays what it was.
        layers : int, "global" or sequence of them, optional
            Attention layers in which they are cut, as in `Trace.attention`; all by default.
        heads : sequence of int, optional
            Heads of these layers; all by default.
        against : int or str, optional
            Another token (id or text) whose log-probability is wanted at the first predicting row.
        rivals : sequence of int, optional
            Ids of tokens, one for each of the target's, whose log-probability is wanted at its
            predicting row under every cut.
        backend : {"auto", "block"}
            ``block`` computes the whole sequence whatever is cut.
        batch_size, max_memory
            As in `Trace.evaluate`.

        Returns
        -------
        Evaluation
            ``changed_rows`` says how many rows lose an edge.

        Raises
        ------
        EdgeError
            If an edge does not exist, is forbidden by the model's own mask, or is of the frame.
        UnsupportedModelError
            If some layers mix tokens without attention.
        IndexError
            If there is no such layer.
        ValueError
            If another option has a value that is not allowed.
        AttentionError, ModelMemoryError
            As in `Trace.evaluate`.
        """
        check_choice("kind", kind, KINDS)
        check_choice("backend", backend, BACKENDS)
        if batch_size is not None:
            whole_number("batch_size", batch_size, 1)
        prepared, edges = self.prepared, self.edges(target)
        lvlm = prepared.lvlm
        budget = parse_memory(lvlm.max_memory if max_memory is None else max_memory)
        wanted = [cuts] if isinstance(cuts, Cut) else list(cuts)
        for one in wanted:
            edges.check(one)
        with lvlm.session(), torch.no_grad():
            question = CutRows(
                prepared, edges, wanted, kind,
                layers=None if layers is None else tuple(lvlm.layer_indices(layers)),
                heads=None if heads is None else _checked_heads(lvlm.text_config, heads),
                against=None if against is None else lvlm.token_id(against),
                rivals=None if rivals is None else _checked_rivals(rivals, edges.target, lvlm),
            )  # fmt: skip
            size = SizeRule(
                prepared, batch_size, budget, total=edges.stop, rows=len(edges.readers),
                masking=question.masking,
            )  # fmt: skip
            answers = answered(question, question.changed, backend, size)
        return replace(answers, changed_rows=question.changed.sum(axis=1))
