"""Which heads of a model carry the evidence to the answer: causal mediation, done once and kept.

1. Probes: some traces with a target each. In the corrupt run the evidence (the image; all
   candidates where there is none) is masked, which takes the answer away.
2. Indirect effect of a head: its output of the clean run is put back into the corrupt run, all
   else stays corrupt. IE = p_restored(target) - p_corrupt(target), averaged over probes (Vig et al.
   2020; AttnAttrib extracts its circuits by the same kind of mediation analysis).
3. A head that restores the answer has something to do with the evidence, but need not be the one
   that reads it for the predicting row (early heads write it into the words of the question). The
   second half of AttnAttrib, heads *of the circuit* that attribute by their attention, is therefore
   ``rank="effect_x_mass"``: IE⁺ times the attention that the predicting row pays to the evidence,
   averaged over probes. ``rank="effect"`` orders by IE alone.
4. The best `n_heads` are the choice. It is kept on disk with the model's name and a fingerprint of
   its weights, and refused for any other model.

Read of AttnAttrib: abstract, overview and reviews (a small set of circuit heads found by mediation,
one of which attributes answers to the context in the forward pass); the paper's own selection
procedure in detail was not retrievable, so steps 2-4 are this package's reading for images.

References
----------
S. Basu et al., "On Mechanistic Circuits for Extractive Question-Answering", COLM 2025,
arXiv:2502.08059. J. Vig et al., "Investigating Gender Bias in Language Models Using Causal
Mediation Analysis", NeurIPS 2020, arXiv:2004.12265.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from causal_lvlm.arrays import BoolArray, FloatArray, frozen
from causal_lvlm.attribution.info import Progress
from causal_lvlm.attribution.weights import check_finite, target_rows
from causal_lvlm.checks import check_choice, whole_number
from causal_lvlm.errors import OutputError, TargetError
from causal_lvlm.fields import (
    array,
    damaged,
    many,
    maybe,
    reading,
    record,
    rows,
    settings,
    table,
    text,
    whole,
)
from causal_lvlm.protocols import TraceLike
from causal_lvlm.storage import read_json, versions, write_json
from causal_lvlm.tokens import Target, TargetLike, candidate_units, resolve_target

__all__ = ["N_HEADS", "HeadChoice", "select_heads"]

KIND = "head_choice"
FORMAT = 1
EVIDENCE = ("image", "text", "all")
RANKS = ("effect_x_mass", "effect")
N_HEADS = 4


@dataclass(frozen=True, eq=False)
class HeadChoice:
    """Heads of one model, and why they were chosen.

    Attributes
    ----------
    heads : tuple of (int, int)
        Layer and head, best first.
    effects : ndarray of float64, shape (L, H)
        Mean indirect effect.
    masses : ndarray of float64, shape (L, H)
        Mean attention of the predicting row on the evidence.
    n_probes : int
    model_id, revision, fingerprint : str or None
        What it belongs to.
    parameters : dict
    model_runs : int
        What the choice took.
    versions : dict
    """

    heads: tuple[tuple[int, int], ...]
    effects: FloatArray
    masses: FloatArray
    n_probes: int
    model_id: str
    revision: str | None
    fingerprint: str | None
    parameters: dict[str, Any]
    model_runs: int = 0
    versions: Mapping[str, str] = field(default_factory=versions)

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        object.__setattr__(self, "effects", frozen(self.effects, np.float64))
        object.__setattr__(self, "masses", frozen(self.masses, np.float64))

    def check(self, trace: TraceLike) -> None:
        """Raise `OutputError` unless the choice was made for the trace's model.

        Raises
        ------
        OutputError
            If name, revision or weights differ.
        """
        found = (trace.model_id, trace.revision, trace.model.fingerprint())
        mine = (self.model_id, self.revision, self.fingerprint)
        for what, one, other in zip(("model", "revision", "weights"), mine, found, strict=True):
            if one != other:
                raise OutputError(
                    f"these heads were chosen for {self.model_id!r} (revision {self.revision!r}), "
                    f"but the trace is of {trace.model_id!r} (revision {trace.revision!r}): the "
                    f"{what} differs; choose heads for this model with select_heads"
                )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the choice as JSON; raises `OutputError` if it cannot be written."""
        return write_json(
            path,
            {
                "kind": KIND,
                "format": FORMAT,
                "heads": self.heads,
                "effects": self.effects,
                "masses": self.masses,
                "n_probes": self.n_probes,
                "model_id": self.model_id,
                "revision": self.revision,
                "fingerprint": self.fingerprint,
                "parameters": self.parameters,
                "model_runs": self.model_runs,
                "versions": self.versions,
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadChoice:
        """Read what `save` wrote.

        Raises
        ------
        OutputError
            If the file cannot be read, is of another format, or holds no choice of heads.
        """
        value = read_json(path, KIND, format=FORMAT)
        with reading(path, "choice of heads"):
            fields = _SAVED(value, "")
            shape = fields["effects"].shape
            if fields["masses"].shape != shape:
                raise damaged("masses", "must have the shape of effects")
            if any(layer >= shape[0] or head >= shape[1] for layer, head in fields["heads"]):
                raise damaged("heads", f"must be layers and heads of {shape}")
            return cls(**fields)


_SAVED = record(
    {
        "heads": many(rows(whole(0), whole(0))),
        "effects": array(np.float64, None, None, nan=True),
        "masses": array(np.float64, None, None, nan=True),
        "n_probes": whole(0),
        "model_id": text,
        "revision": maybe(text),
        "fingerprint": maybe(text),
        "parameters": settings(),
        "model_runs": whole(0),
        "versions": table(text),
    }
)


def select_heads(
    traces: Sequence[TraceLike],
    targets: Sequence[TargetLike],
    *,
    n_heads: int = N_HEADS,
    n_probes: int | None = None,
    seed: int = 0,
    evidence: str = "image",
    rank: str = "effect_x_mass",
    masking: str = "remove",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> HeadChoice:
    """Choose heads by causal mediation, once per model.

    Parameters
    ----------
    traces : sequence of Trace
        Of one model.
    targets : sequence
        One target for each trace.
    n_heads : int
    n_probes : int, optional
        Draw this many of the traces (by `seed`); default is all of them.
    seed : int
    evidence : {"image", "text", "all"}
        What the corrupt run masks; all candidates where a trace has none of this kind.
    rank : {"effect_x_mass", "effect"}
        See the module's text.
    masking : str
        See `Trace.evaluate`.
    batch_size : int, optional
        Most rows in one call.
    progress : callable, optional
        Called with (text, probes done, probes).

    Returns
    -------
    HeadChoice
        ``model_runs`` counts L·H + 1 rows, two reference runs and one pass for attention a probe.

    Raises
    ------
    TargetError
        If a target is not in its answer, or nothing can be masked before any of them.
    ValueError
        If an option is unknown, or there are no probes, or not one target for each trace.
    """
    check_choice("evidence", evidence, EVIDENCE)
    check_choice("rank", rank, RANKS)
    whole_number("n_heads", n_heads, 1)
    if not traces or len(traces) != len(targets):
        raise ValueError(
            f"at least one trace and one target for each are needed, got {len(traces)} traces and "
            f"{len(targets)} targets"
        )
    chosen = list(range(len(traces)))
    if n_probes is not None and n_probes < len(traces):
        whole_number("n_probes", n_probes, 1)
        draw = np.random.default_rng(seed).choice(len(traces), n_probes, replace=False)
        chosen = sorted(int(k) for k in draw)
    effects: list[FloatArray] = []
    masses: list[FloatArray] = []
    runs = 0
    for done, number in enumerate(chosen):
        if progress is not None:
            progress("choosing heads", done, len(chosen))
        trace = traces[number]
        target = resolve_target(trace.layout, targets[number])
        members = _evidence(trace, target, evidence)
        if not members:
            continue
        mass = _masses(trace, target, members)
        effect, used = _effects(trace, target, members, mass.shape, masking, batch_size)
        effects.append(effect)
        masses.append(mass)
        runs += used + 1
    if progress is not None:
        progress("choosing heads", len(chosen), len(chosen))
    if not effects:
        raise TargetError("nothing can be masked before any of the targets, so no head can restore")
    effect, mass = np.mean(effects, axis=0), np.mean(masses, axis=0)
    value = np.maximum(effect, 0) * mass if rank == "effect_x_mass" else effect
    order = np.argsort(-value, axis=None, kind="stable")[:n_heads]
    return HeadChoice(
        heads=tuple((int(k) // value.shape[1], int(k) % value.shape[1]) for k in order),
        effects=effect,
        masses=mass,
        n_probes=len(effects),
        model_id=traces[0].model_id,
        revision=traces[0].revision,
        fingerprint=traces[0].model.fingerprint(),
        parameters={
            "n_heads": n_heads,
            "seed": seed,
            "evidence": evidence,
            "rank": rank,
            "masking": masking,
        },
        model_runs=runs,
    )


def _evidence(trace: TraceLike, target: Target, evidence: str) -> list[int]:
    """Return the positions that the corrupt run masks."""
    units = candidate_units(trace.layout, target)
    image = [m == "image" for m in units.modality]
    wanted = [
        p
        for members, is_image in zip(units.members, image, strict=True)
        for p in members
        if evidence == "all" or is_image == (evidence == "image")
    ]
    return wanted or [p for members in units.members for p in members]


def _masses(trace: TraceLike, target: Target, members: list[int]) -> FloatArray:
    """Return the attention of the predicting rows on the evidence, (L, H)."""
    rows = target_rows(target, "predictor")
    found = [
        weights[:, rows][:, :, members].sum(axis=-1).mean(axis=-1, dtype=np.float64)
        for _, weights in trace.iter_attention()
    ]
    mass = np.stack(found)
    check_finite(mass, "attention of the probes")
    return mass


def _effects(
    trace: TraceLike,
    target: Target,
    members: list[int],
    shape: tuple[int, ...],
    masking: str,
    batch_size: int | None,
) -> tuple[FloatArray, int]:
    """Return the indirect effect of every head, (L, H), and the runs that it took."""
    keep: BoolArray = np.ones(len(trace.layout), dtype=np.bool_)
    keep[members] = False
    n_all = shape[0] * shape[1]
    restore = np.zeros((n_all + 1, n_all), dtype=np.bool_)
    restore[np.arange(n_all), np.arange(n_all)] = True  # the last row restores nothing
    answers = trace.evaluate_heads(
        restore.reshape(n_all + 1, *shape), target, base="corrupt", keep=keep, masking=masking,
        batch_size=batch_size,
    )  # fmt: skip
    probability = np.exp(answers.log_prob)
    return (probability[:-1] - probability[-1]).reshape(shape), int(answers.runs) + 2
