"""Train the embedded model from scratch.

1. ``tower_steps`` on the patch losses alone: the tower learns to see, the projector to speak the
   decoder's words.
2. The rest on everything together (``causal_lvlm.tiny.losses``); the decoder's learning rate is
   warmed up anew. One cosine to zero over all steps, one seed, an endless stream of scenes.
3. Every ``evaluate_every`` steps the validation scenes are answered and ``curve.jsonl`` grows;
   every ``save_every`` steps a complete model folder is put in the output folder. At the end
   ``learning_curve.png`` is drawn.

``python -m causal_lvlm.tiny.train --out DIR --seed 0 --steps N``
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import AttentionInterface, AttentionMaskInterface, LlavaForConditionalGeneration
from transformers.masking_utils import sdpa_mask

from causal_lvlm.tiny.architecture import build_model, build_processor, tiny_config
from causal_lvlm.tiny.curve import draw_curve
from causal_lvlm.tiny.data import Batch, draw_batch, pack
from causal_lvlm.tiny.losses import PatchHeads, answer_logits, image_features, patch_loss
from causal_lvlm.tiny.scenes import draw_scene

__all__ = ["Settings", "save_folder", "teacher_forced_accuracy", "train", "validation_batches"]

TRAIN_STREAM, VALIDATION_STREAM = 1, 2  # evaluation uses stream 3: never the same scenes
ATTENTION = "tiny_training"
METRICS = "curve.jsonl"


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on.

    Attributes
    ----------
    seed, steps, tower_steps : int
        Random seed; optimiser steps in all; how many of them train the tower alone.
    batch_size, row_length : int
        Images a step, and tokens of a packed row.
    optimizer : str
        ``"adamw"`` or ``"muon"`` (for the matrices of the two transformers; AdamW for the rest).
    learning_rate, muon_rate, weight_decay, warmup, clip, patch_weight : float
        Peak rates, decay, steps of warm-up, largest gradient norm, weight of the patch losses
        beside the answers.
    half : bool
        Matrix products in bfloat16 (weights, attention and losses stay in fp32). Several times
        faster on CPUs with AVX512-BF16 and far slower on others.
    compile : bool
        Use ``torch.compile`` for the tower and the decoder (needs a C++ compiler).
    evaluate_every, save_every, validation_scenes : int
    """

    seed: int = 0
    steps: int = 20_000
    tower_steps: int = 1_000
    batch_size: int = 16
    row_length: int = 224
    optimizer: str = "muon"
    learning_rate: float = 1.4e-3
    muon_rate: float = 2.0e-3
    weight_decay: float = 0.02
    warmup: int = 200
    clip: float = 1.0
    patch_weight: float = 0.25
    half: bool = False
    compile: bool = False
    evaluate_every: int = 500
    save_every: int = 1_000
    validation_scenes: int = 192


def _float_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in fp32 also under autocast: torch's bf16 CPU backward takes twice as long."""
    with torch.autocast("cpu", enabled=False):
        out = functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=attention_mask, scale=scaling
        )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _float_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def validation_batches(scenes: int, *, batch_size: int = 16) -> list[Batch]:
    """Packed validation scenes with all questions and true answers; always the same."""
    rng = np.random.default_rng([0, VALIDATION_STREAM])
    drawn = [draw_scene(rng) for _ in range(scenes)]
    return [pack(drawn[i : i + batch_size]) for i in range(0, scenes, batch_size)]


@torch.no_grad()
def teacher_forced_accuracy(
    model: LlavaForConditionalGeneration, batches: Sequence[Batch]
) -> dict[str, float]:
    """Share of answers whose every token is the most likely one: what greedy decoding would write.

    Returns
    -------
    dict of str to float
        By kind, plus ``"loss"``, the mean weighted answer loss.
    """
    right: dict[str, list[bool]] = {}
    losses = []
    for batch in batches:
        logits = answer_logits(model, batch, image_features(model, batch.pixels)[1]).float()
        entropy = functional.cross_entropy(logits, batch.labels, reduction="none")
        losses.append(float((entropy * batch.weights).sum() / batch.weights.sum()))
        wrong = (logits.argmax(dim=-1) != batch.labels).numpy()
        errors = np.bincount(batch.answers, weights=wrong, minlength=len(batch.kinds))
        for kind, count in zip(batch.kinds, errors.tolist(), strict=True):
            right.setdefault(kind, []).append(count == 0)
    scores = {kind: float(np.mean(values)) for kind, values in sorted(right.items())}
    return {**scores, "loss": float(np.mean(losses))}


def save_folder(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write model and processor so that ``folder`` is complete at every moment.

    Parameters
    ----------
    model : LlavaForConditionalGeneration
    folder : Path
        Replaced as a whole.
    """
    fresh, stale = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for path in (fresh, stale):
        shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(fresh)
    build_processor().save_pretrained(fresh)
    for path in fresh.iterdir():
        path.chmod(0o644)
    if folder.exists():
        folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)


def _optimizers(
    model: LlavaForConditionalGeneration, heads: PatchHeads, settings: Settings
) -> list[torch.optim.Optimizer]:
    """Parameter groups carry ``late``: whether they wait for the second phase."""
    matrices: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    others: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        late = "language_model" in name and "embed_tokens" not in name
        layer = parameter.ndim == 2 and ".layers." in name and settings.optimizer == "muon"
        (matrices if layer else others)[late].append(parameter)
    others[False].extend(heads.parameters())
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": group, "late": late} for late, group in others.items()],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
            fused=True,
        )
    ]
    if matrices[False]:
        optimizers.append(
            torch.optim.Muon(
                [{"params": group, "late": late} for late, group in matrices.items()],
                lr=settings.muon_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _set_rates(optimizers: list[torch.optim.Optimizer], step: int, settings: Settings) -> float:
    """One cosine over the run; late groups warm up when they join."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            begin = settings.tower_steps if group["late"] else 0
            warm = min(1.0, max(0, step - begin + 1) / settings.warmup)
            group["lr"] = group["peak"] * cosine * warm
    return cosine


def _step_loss(
    model: LlavaForConditionalGeneration, heads: PatchHeads, batch: Batch, joint: bool, s: Settings
) -> tuple[torch.Tensor, dict[str, float]]:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=s.half):
        tower, projected = image_features(model, batch.pixels)
        patches = patch_loss(model, heads, batch, tower, projected)
        if not joint:
            return patches, {"patch_loss": patches.item()}
        logits = answer_logits(model, batch, projected)
    entropy = functional.cross_entropy(logits.float(), batch.labels, reduction="none")
    answers = (entropy * batch.weights).sum() / batch.weights.sum()
    return answers + s.patch_weight * patches, {
        "answer_loss": answers.item(),
        "patch_loss": patches.item(),
    }


@contextmanager
def _progress(settings: Settings) -> Iterator[tqdm[Any]]:
    with tqdm(total=settings.steps, unit="step", mininterval=5.0, dynamic_ncols=True) as bar:
        yield bar


def train(out: Path, settings: Settings) -> dict[str, float]:
    """Train one model.

    Parameters
    ----------
    out : Path
        Gets ``model/`` (always complete), ``curve.jsonl``, ``settings.json``,
        ``learning_curve.png``.
    settings : Settings

    Returns
    -------
    dict of str to float
        The last validation scores.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng([settings.seed, TRAIN_STREAM])
    config = tiny_config()
    model = build_model(settings.seed, config)
    heads = PatchHeads(config.text_config.hidden_size)
    model.set_attn_implementation(ATTENTION)
    validation = validation_batches(settings.validation_scenes)
    forward_parts = (model.model.vision_tower, model.model.language_model)
    if settings.compile:
        for part in forward_parts:
            part.compile()
    optimizers = _optimizers(model, heads, settings)
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    scores: dict[str, float] = {}
    began = time.monotonic()
    recent: dict[str, list[float]] = {}
    with _progress(settings) as bar, (out / METRICS).open("w") as curve:
        for step in range(settings.steps):
            joint = step >= settings.tower_steps
            cosine = _set_rates(optimizers, step, settings)
            batch = draw_batch(rng, settings.batch_size, length=settings.row_length)
            loss, parts = _step_loss(model, heads, batch, joint, settings)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, settings.clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            for name, value in parts.items():
                recent.setdefault(name, []).append(value)
            done = step + 1
            last = done == settings.steps
            bar.update()
            if last or done % settings.evaluate_every == 0:
                line: dict[str, Any] = {
                    "step": done,
                    "seconds": round(time.monotonic() - began, 1),
                    "rate": cosine,
                    **{name: float(np.mean(values)) for name, values in recent.items()},
                }
                recent.clear()
                if joint:
                    scores = _evaluate(model, validation, settings)
                    line["validation"] = scores
                    bar.set_postfix({kind: f"{value:.2f}" for kind, value in scores.items()})
                curve.write(json.dumps(line) + "\n")
                curve.flush()
            if last or done % settings.save_every == 0:
                save_folder(model, out / "model")
    draw_curve(out / METRICS, out / "learning_curve.png")
    return scores


def _evaluate(
    model: LlavaForConditionalGeneration, batches: Sequence[Batch], settings: Settings
) -> dict[str, float]:
    model.eval()
    # Rows of validation batches differ in length: compiled code would be compiled again for each.
    with torch.compiler.set_stance("force_eager"):
        scores = teacher_forced_accuracy(model, batches)
    model.train()
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of ``python -m causal_lvlm.tiny.train``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for model, curve, settings")
    defaults = Settings()
    for name, default in asdict(defaults).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    chosen = vars(parser.parse_args(arguments))
    os.environ.setdefault("OMP_NUM_THREADS", str(chosen["threads"]))
    torch.set_num_threads(chosen.pop("threads"))
    out = chosen.pop("out")
    train(out, Settings(**chosen))


if __name__ == "__main__":
    main()
