"""Replace the outputs of single heads: ablation, and mediation between a clean and a corrupt run.

A head's output is A V, before the output projection mixes heads. It may be replaced, at every
position computed, by

1. zero, or its own mean over the positions of the clean run (``source="zero"``, ``"mean"``);
2. what it puts out in a corrupt run, in which the positions outside `keep` are masked
   (``source="corrupt"``): the share of the corruption's effect that passes through the head when
   all else stays clean;
3. what it puts out in the clean run, put back into the corrupt one (``base="corrupt"``): the
   indirect effect of causal mediation analysis (Vig et al., NeurIPS 2020, arXiv:2004.12265, after
   Pearl 2001), which says how much of the answer this head alone restores.

The two reference runs keep all positions (masked ones are hidden, not dropped), so that outputs
stand at the same places; they are made once, and rows are batched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from causal_lvlm.arrays import BoolArray, IntArray
from causal_lvlm.errors import CaptureError, UnsupportedModelError, quoted
from causal_lvlm.lvlm.attention_function import Recorder, recording
from causal_lvlm.lvlm.batches import in_batches, most_rows
from causal_lvlm.lvlm.cut_rows import CutRows
from causal_lvlm.lvlm.evaluate import masked_rows
from causal_lvlm.lvlm.live import Live
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.rows import Answers
from causal_lvlm.results import Evaluation
from causal_lvlm.tokens import Target, TargetLike

__all__ = ["BASES", "SOURCES", "Headed"]

SOURCES = ("zero", "mean", "corrupt")
BASES = ("clean", "corrupt")


class Headed(Live):
    """The target again, with the outputs of some heads replaced."""

    def evaluate_heads(
        self,
        ablate: BoolArray,
        target: TargetLike,
        *,
        source: str = "zero",
        keep: BoolArray | None = None,
        base: str = "clean",
        masking: str = "remove",
        against: int | str | None = None,
        batch_size: int | None = None,
    ) -> Evaluation:
        """Evaluate the target, teacher-forced, with the outputs of some heads replaced.

        Parameters
        ----------
        ablate : ndarray of bool, shape (K, L, H)
            True where a head's output is replaced; L attention layers of the language model.
        target : TargetLike
        source : {"zero", "mean", "corrupt"}
            What replaces it in a clean run. With ``base="corrupt"`` it is always the clean run's
            output, and `source` is not looked at.
        keep : ndarray of bool, shape (T,), optional
            False where the corrupt run is masked; see `causal_lvlm.lvlm.evaluate`.
        base : {"clean", "corrupt"}
            The run in which outputs are replaced.
        masking : str
            How the corrupt run is masked, as in `causal_lvlm.lvlm.evaluate`.
        against : int or str, optional
            Another token whose log-probability is wanted at the first predicting row.
        batch_size : int, optional
            Most rows in one call.

        Returns
        -------
        Evaluation
            One row for each row of `ablate`; `masking` reads ``heads-zero``, ``heads-mean``,
            ``heads-corrupt`` or ``heads-restored``. `runs` counts these rows, not the reference
            runs.

        Raises
        ------
        ValueError
            If `ablate` or `keep` has the wrong shape, `keep` is missing, or an option is unknown.
        UnsupportedModelError
            If the corrupt run would have to hide tokens from layers without attention.
        ModelMemoryError
            If memory runs out with a single row.
        """
        prepared, meant = self.prepared, self.target(target)
        if source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {quoted(source)}")
        if base not in BASES:
            raise ValueError(f"base must be one of {', '.join(BASES)}, got {quoted(base)}")
        needs_mask = source == "corrupt" or base == "corrupt"
        mask = _checked_keep(prepared, keep, needs_mask)
        lvlm = prepared.lvlm
        other = None if against is None else lvlm.token_id(against)
        with lvlm.session(), torch.no_grad():
            clean = _Run(prepared, meant, None, masking)
            corrupt = _Run(prepared, meant, mask, masking) if needs_mask else clean
            run, giver = (corrupt, clean) if base == "corrupt" else (clean, corrupt)
            given = giver.outputs()
            chosen = _checked_heads(ablate, len(given), int(given[0].shape[2]))
            if base == "clean" and source != "corrupt":
                given = [
                    torch.zeros_like(o) if source == "zero" else o.mean(dim=1, keepdim=True)
                    for o in given
                ]
            found = Answers.empty(len(chosen), len(meant.positions))

            def answer(rows: IntArray) -> None:
                recorder = Recorder()
                for number, module in enumerate(lvlm.attention_modules):
                    which = chosen[rows, number]
                    if which.any():
                        recorder.outputs[id(module)] = _replacing(which, given[number])
                logits = run.logits(len(rows), recorder)
                found.read(rows, logits, meant.token_ids, other)

            most = most_rows(prepared, batch_size, meant.positions[-1], len(meant.positions))
            largest, halvings = in_batches(len(chosen), most, answer, prepared)
        return Evaluation(
            token_log_probs=found.token_log_probs,
            argmax=found.argmax,
            margin=found.margin,
            runner_up=found.runner_up,
            top_log_prob=found.top,
            against_log_prob=None if other is None else found.against,
            runs=len(chosen),
            masking="heads-" + ("restored" if base == "corrupt" else source),
            backend="block" if needs_mask else "none",
            largest_batch=largest,
            halvings=halvings,
        )


class _Run:
    """The clean or the corrupt run, to be repeated with some outputs replaced."""

    def __init__(
        self, prepared: Prepared, target: Target, keep: BoolArray | None, masking: str
    ) -> None:
        self.prepared, self.target = prepared, target
        self._stop = target.positions[-1]
        if keep is None:
            self._embeds, self._allowed = prepared.embeds[:, : self._stop], None
            return
        rows = masked_rows(prepared, keep[None], target, masking)
        one = np.zeros(1, dtype=np.int64)
        if isinstance(rows, CutRows):
            self._embeds = prepared.embeds[:, : self._stop]
            self._allowed = rows.allowed_keys(one)
            return
        self._embeds = rows.embeds_of(one)[:1]
        if rows.removed.all():
            self._allowed = None
            return
        if prepared.lvlm.only_drop:
            raise UnsupportedModelError(
                f"some layers of {prepared.lvlm.model_id!r} mix tokens without attention, so "
                f"masking={masking!r} cannot hide them in place; use masking='neutral'"
            )
        self._allowed = rows.allowed_keys(one).to(prepared.lvlm.device)

    def logits(self, n_rows: int, recorder: Recorder) -> torch.Tensor:
        """Return logits of the predicting rows, (B, G, vocabulary)."""
        recorder.allowed = self._allowed
        recorder.unmasked = self.prepared.lvlm.cross_attention
        embeds = self._embeds.expand(n_rows, -1, -1)
        positions = self.prepared.positions[:, : self._stop]
        with recording(recorder):
            return self.prepared.logits(embeds, positions, len(self.target.positions))

    def outputs(self) -> list[torch.Tensor]:
        """Return each attention layer's head outputs, (1, stop, H, d)."""
        modules = self.prepared.lvlm.attention_modules
        wanted = {id(module): number for number, module in enumerate(modules)}
        recorder = Recorder(record=True, modules=frozenset(wanted))
        self.logits(1, recorder)
        found = {wanted[id(call.module)]: call.output for call in recorder.calls}
        if len(found) < len(modules):
            missing = sorted(set(wanted.values()) - set(found))
            raise CaptureError(f"layers {missing} did not call the attention function")
        return [found[number] for number in range(len(modules))]


def _replacing(which: BoolArray, given: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function putting `given` (1, T or 1, H, d) in place of some heads' outputs."""
    return partial(_replaced, which=torch.tensor(which), given=given)


def _replaced(output: torch.Tensor, which: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    heads = which.to(output.device)[:, None, :, None]
    return torch.where(heads, given.to(output), output)


def _checked_keep(prepared: Prepared, keep: Any, needed: bool) -> BoolArray | None:
    if not needed:
        if keep is not None:
            raise ValueError(
                "keep says what a corrupt run masks; ask for source='corrupt' or base='corrupt'"
            )
        return None
    length = len(prepared.layout)
    if keep is None:
        raise ValueError(
            f"a corrupt run needs keep, a boolean array ({length},), False where it is masked"
        )
    mask: BoolArray = np.asarray(keep)
    if mask.shape != (length,) or mask.dtype != np.bool_:
        raise ValueError(f"keep must be a boolean array ({length},), got {mask.dtype} {mask.shape}")
    return mask


def _checked_heads(ablate: Any, n_layers: int, n_heads: int) -> BoolArray:
    chosen: BoolArray = np.asarray(ablate)
    if chosen.ndim != 3 or chosen.shape[1:] != (n_layers, n_heads) or chosen.dtype != np.bool_:
        raise ValueError(
            f"ablate must be a boolean array (K, {n_layers}, {n_heads}), got {chosen.dtype} "
            f"{chosen.shape}"
        )
    return chosen
