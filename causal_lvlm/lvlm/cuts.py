"""What does the model say when some edges are cut, or all but some?

1. `Cuts.edges` names the edges that may be cut for a target; each cut is checked against them.
2. How rows with cuts are computed, and what the two kinds are: see `causal_lvlm.lvlm.cut_rows`.
3. `causal_lvlm.lvlm.answered` computes them and checks the way it takes, as for masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.edges import Cut, Edges
from causal_lvlm.errors import OptionError
from causal_lvlm.lvlm.answered import answered
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.batches import SizeRule
from causal_lvlm.lvlm.cut_rows import CutRows, edges_of
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.memory import parse_memory
from causal_lvlm.results import Evaluation
from causal_lvlm.tokens import Target, TargetLike

__all__ = ["KINDS", "Cuts"]

KINDS = ("mask", "value")
BACKENDS = ("auto", "block")


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
