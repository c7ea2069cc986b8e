"""What the model would have said, with tokens masked or edges cut while it goes on generating.

1. The answer is kept up to the target (or up to `start`); from there the model decodes greedily, by
   its plain logits, as `LVLM.run` does.
2. What is masked is masked for every row, new ones included.
3. A source that is cut into the row that predicts the target is cut for every later row too. Where
   everything but some edges is cut, later rows read what that row still reads, and what was
   generated since.
4. Keys and values of what stands before are kept from step to step where that is exact; elsewhere
   (windows, cross-attention) the whole sequence is run for every token.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from transformers import DynamicCache

from causal_lvlm.arrays import BoolArray
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.edges import Cut
from causal_lvlm.errors import OptionError, UnsupportedModelError
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.context import Context
from causal_lvlm.lvlm.cut_rows import edges_of
from causal_lvlm.lvlm.generation import answer_text, stop_ids
from causal_lvlm.lvlm.interventions import masked_embeddings
from causal_lvlm.lvlm.length import check_length
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.protocols import MASKINGS
from causal_lvlm.results import Regenerated
from causal_lvlm.tokens import Target, TargetLike

__all__ = ["Regenerates"]


class Regenerates(Live):
    """The answer again, with tokens masked or edges cut."""

    def regenerate(
        self,
        target: TargetLike,
        *,
        mask: Iterable[int] | None = None,
        cuts: Cut | None = None,
        masking: str = "remove",
        start: int | None = None,
        max_new_tokens: int | None = None,
    ) -> Regenerated:
        """Say what the model would have said instead of the target, and after it.

        Parameters
        ----------
        target : TargetLike
        mask : iterable of int, optional
            Positions that are masked.
        cuts : Cut, optional
            Edges that are cut, see `causal_lvlm.edges`.
        masking : str
            What is done to masked positions, as in `Trace.evaluate`.
        start : int, optional
            Number of the first token that is generated anew, counted from 0 and not behind the
            target; by default the target's first. With 0 the whole answer is.
        max_new_tokens : int, optional
            By default the answer may become as long as the run allowed.

        Returns
        -------
        Regenerated

        Raises
        ------
        OptionError
            If `start` lies behind the target, or what is masked or cut is generated anew.
        EdgeError
            If an edge cannot be cut.
        PromptError
            If the sequence would be longer than the model's context.
        UnsupportedModelError
            If some layers mix tokens without attention, and something is to be hidden in them.
        ValueError
            If a position is special, or does not exist.
        """
        prepared, meant = self.prepared, self.target(target)
        check_choice("masking", masking, MASKINGS)
        n_prompt = self.layout.n_prompt
        first = meant.start - n_prompt
        if start is not None:
            if whole_number("start", start, 0) > first:
                raise OptionError(f"start must be one of 0..{first}, the target's first: {start}")
            first = start
        allowed = int(self.parameters.get("max_new_tokens") or 64)
        most = max(allowed - first, 1) if max_new_tokens is None else max_new_tokens
        whole_number("max_new_tokens", most, 1)
        length = n_prompt + first
        lvlm = prepared.lvlm
        check_length(lvlm.text_config, lvlm.model_id, length, most)
        keep = _checked_mask(self, mask, meant, length)
        change = _Change(prepared, meant, keep, masking, cuts, length)
        with lvlm.session(), torch.no_grad():
            ids, log_probs, finished = _decode(prepared, change, most)
        said = [*self.layout.token_ids[n_prompt:length].tolist(), *ids]
        found = np.array(log_probs, dtype=np.float64)
        return Regenerated(answer_text(lvlm, said), tuple(ids), found, first, finished)


def _checked_mask(live: Live, mask: Iterable[int] | None, target: Target, length: int) -> BoolArray:
    """Return which of the kept positions stay, bool (length,)."""
    positions = sorted({int(p) for p in (() if mask is None else mask)})
    keep = np.ones(length, dtype=np.bool_)
    for p in positions:
        if not 0 <= p < target.start or live.layout.modality[p] == "special":
            raise OptionError(
                f"position {p} cannot be masked for the target at {target.start}: it must stand "
                "before it, and be no special or template token"
            )
        if p >= length:
            raise OptionError(
                f"position {p} is generated anew, so it cannot be masked; give start={None} to "
                "keep the answer up to the target"
            )
        if p == length - 1 and p == target.predictor:
            raise OptionError(
                f"position {p} is the row that predicts the target; it cannot be masked"
            )
        keep[p] = False
    return keep


class _Change:
    """What is hidden from whom while the model decodes.

    Parameters
    ----------
    prepared : Prepared
    target : Target
    keep : ndarray of bool, shape (length,)
        Kept positions that are not masked.
    masking : str
    cuts : Cut, optional
    length : int
        Kept positions.
    """

    def __init__(
        self,
        prepared: Prepared,
        target: Target,
        keep: BoolArray,
        masking: str,
        cuts: Cut | None,
        length: int,
    ) -> None:
        self.keep, self.masking, self.length = keep, masking, length
        self.is_image = prepared.layout.modality[:length] == "image"
        hidden = {
            "remove": ~keep,
            "edges": np.zeros_like(keep),
            "neutral": np.zeros_like(keep),
        }.get(masking, ~keep & ~self.is_image)
        self._hidden = hidden.copy()
        if prepared.hidden is not None:
            self._hidden |= prepared.hidden[:length]
        self._rows: BoolArray | None = None  # what kept rows still read, beside hidden positions
        self._later: BoolArray = np.ones(length, dtype=np.bool_)  # the same of new rows
        if masking == "edges":
            self._later &= keep
        if cuts is not None:
            self._cut(prepared, target, cuts)
        hides = self._rows is not None or self._hidden.any() or not self._later.all()
        if hides and prepared.lvlm.only_drop:
            raise UnsupportedModelError(
                f"some layers of {prepared.lvlm.model_id!r} mix tokens without attention, so "
                "nothing can be hidden in them while it generates; use masking='neutral'"
            )
        self.hides = hides

    def _cut(self, prepared: Prepared, target: Target, cuts: Cut) -> None:
        edges = edges_of(prepared, target)
        edges.check(cuts)
        predictor = edges.readers[0]
        named = cuts.pairs[cuts.pairs < predictor + 1]
        if self.length <= predictor and len(named) and int(named.max()) >= self.length:
            raise OptionError(
                "an edge of a word that is generated anew cannot be cut; keep the answer up to "
                "the target (start=None)"
            )
        visible, n_old = edges.visible([cuts], np.arange(edges.stop)[None])[0], self.length
        self._rows = visible[:n_old, :n_old]
        seen = visible[predictor, :n_old].copy()
        seen[[r for r in edges.readers if r < len(seen)]] = True
        self._later[: len(seen)] &= seen

    def embeds(self, prepared: Prepared, embeds: torch.Tensor) -> torch.Tensor:
        """Return the embeddings with what is masked replaced, where the masking replaces it."""
        if self.keep.all() or self.masking in ("remove", "edges"):
            return embeds
        changed = masked_embeddings(
            prepared, self.keep[None], self.masking, self.is_image, self.length
        )(np.zeros(1, dtype=np.int64))
        return torch.cat([changed, embeds[:, self.length :]], dim=1)

    def allowed(self, start: int, stop: int) -> torch.Tensor:
        """Return which keys rows start .. stop - 1 may read, bool (1, 1, rows, stop)."""
        rows, keys = np.arange(start, stop), np.arange(stop)
        seen = np.ones((len(rows), stop), dtype=np.bool_)
        old, kept = rows < self.length, min(self.length, stop)
        if self._rows is not None:
            n = len(self._rows)
            inside = rows < n
            seen[inside, :n] = self._rows[rows[inside]][:, :stop]
        # The row that decides on the first new token reads as the new ones do.
        new = ~old | (rows == self.length - 1)
        seen[new, :kept] &= self._later[:kept]
        seen[:, :kept] &= ~self._hidden[:kept]
        seen |= rows[:, None] == keys[None, :]
        return torch.tensor(seen)[None, None]


def _decode(prepared: Prepared, change: _Change, most: int) -> tuple[list[int], list[float], bool]:
    """Decode greedily; returns new tokens, their log-probabilities, and whether the last stops."""
    lvlm, length = prepared.lvlm, change.length
    stops, table = set(stop_ids(lvlm)), lvlm.model.get_input_embeddings()
    filler = torch.full((1, most), int(prepared.token_ids[0, 0]), device=lvlm.device)
    ids = torch.cat([prepared.token_ids[:, :length], filler], dim=1)
    embeds, context = lvlm.embed(prepared.inputs, ids)  # one pass of the tower, for all of it
    embeds = change.embeds(prepared, embeds).clone()
    cache = DynamicCache() if lvlm.drop_is_exact and not context.cross else None
    found: list[int] = []
    log_probs: list[float] = []
    done = 0
    while True:
        stop = length + len(found)
        row = _last_row(prepared, embeds, context, change, done, stop, cache)
        chosen = int(row.argmax())
        log_probs.append(float(row.log_softmax(dim=-1)[chosen]))
        found.append(chosen)
        if chosen in stops or len(found) == most:
            return found, log_probs, chosen in stops
        ids[0, stop] = chosen
        if context.per_layer[0]:
            embeds, context = lvlm.embed(prepared.inputs, ids)
            embeds = change.embeds(prepared, embeds).clone()
        else:
            embeds[0, stop, : context.width] = table(ids[:, stop])[0]
            embeds[0, stop, context.width :] = 0
        done = stop if cache is not None else 0


def _last_row(
    prepared: Prepared,
    embeds: torch.Tensor,
    context: Context,
    change: _Change,
    start: int,
    stop: int,
    cache: DynamicCache | None,
) -> torch.Tensor:
    """Return the logits of row stop - 1, float64 (vocabulary,); rows before `start` are cached."""
    lvlm = prepared.lvlm
    positions = torch.arange(start, stop, device=embeds.device)[None]
    recorder = Recorder(unmasked=lvlm.cross_attention)
    if change.hides:
        recorder.allowed = change.allowed(start, stop).to(embeds.device)
    with recording(recorder):
        logits = lvlm.logits(embeds[:, start:stop], positions, 1, cache, context)
    return logits[0, -1].double()
