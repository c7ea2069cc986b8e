"""What the tiny model is trained on. No loss looks at an attention weight.

1. *Answers*: cross-entropy of every answer token.
2. *Patches*: the tower's output at a patch tells shape, colour and size of what covers it.
3. *Alignment*: the projected patch, read with the word embeddings (the decoder's tied output
   matrix), gives the words of that shape, colour and size; its place (row, column, cell of the
   layout, whether it is the object's main patch) can be read from it linearly.

All targets are local: none tells a patch about an object that does not cover it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from causal_lvlm.tiny.architecture import N_PATCHES
from causal_lvlm.tiny.data import IGNORE, PATCH_COLOURS, PREFIX, SIZES, Batch
from causal_lvlm.tiny.scenes import CELLS, GRID, SHAPES
from causal_lvlm.tiny.vocabulary import INDEX

__all__ = ["PatchHeads", "answer_logits", "image_features", "patch_loss"]


class PatchHeads(nn.Module):
    """Linear readers of the patches; they are thrown away after training.

    Parameters
    ----------
    width : int
        Width of the model.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(SHAPES) + 1, len(PATCH_COLOURS), len(SIZES))
        self.seen = nn.Linear(width, sum(self.sizes))
        self.place = nn.Linear(width, 2 * GRID + CELLS * CELLS + 2)
        self.background = nn.Parameter(torch.zeros(width))
        words = {"shape": SHAPES, "colour": PATCH_COLOURS, "size": SIZES}
        self.words = {
            name: torch.tensor([INDEX[word] for word in group]) for name, group in words.items()
        }


def image_features(
    model: LlavaForConditionalGeneration, pixels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tower output and projected image tokens, both of shape (n, 64, width)."""
    tower = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
    return tower, model.model.multi_modal_projector(tower)


def answer_logits(
    model: LlavaForConditionalGeneration, batch: Batch, projected: torch.Tensor
) -> torch.Tensor:
    """Logits at ``batch.predict``, shape (m, vocabulary)."""
    words = model.get_input_embeddings()(batch.ids)
    start = PREFIX - N_PATCHES
    inputs = torch.cat([words[:, :start], projected, words[:, PREFIX:]], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=inputs,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    chosen = hidden.reshape(-1, hidden.shape[-1])[batch.predict]
    logits: torch.Tensor = model.lm_head(chosen)
    return logits


def _entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(
        logits.float().flatten(0, 1), target.flatten(), ignore_index=IGNORE
    )


def patch_loss(
    model: LlavaForConditionalGeneration,
    heads: PatchHeads,
    batch: Batch,
    tower: torch.Tensor,
    projected: torch.Tensor,
) -> torch.Tensor:
    """Sum of the patch and alignment losses (2 and 3 above)."""
    targets = batch.patches
    loss = torch.zeros(())
    for logits, name in zip(
        heads.seen(tower).split(heads.sizes, dim=-1), ("shape", "colour", "size"), strict=True
    ):
        loss = loss + _entropy(logits, targets[name])
    unit = functional.rms_norm(projected.float(), projected.shape[-1:])
    table = model.get_input_embeddings().weight
    for name, numbers in heads.words.items():
        words = table[numbers]
        if name == "shape":
            words = torch.cat([words, heads.background[None]])
        loss = loss + _entropy(unit @ words.T, targets[name])
    row, column, cell, anchor = heads.place(unit).split((GRID, GRID, CELLS * CELLS, 2), dim=-1)
    place = torch.arange(N_PATCHES).expand(len(row), -1)
    loss = loss + 0.3 * _entropy(row, place // GRID) + 0.3 * _entropy(column, place % GRID)
    return loss + 0.5 * _entropy(cell, targets["cell"]) + _entropy(anchor, targets["anchor"])
