"""From images and a rendered prompt to the tensors a model takes.

The processor expands each placeholder into the tokens of its image, in a way of its own for every
family (tiles, row and column marks, line breaks). What it hands to its tokenizer is overheard, so
that every token can be traced to characters of the prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from causal_lvlm.errors import PromptError, UnsupportedModelError
from causal_lvlm.lvlm.facts import Facts

__all__ = ["Processed", "Processes", "whole_inputs"]


@dataclass(frozen=True)
class Processed:
    """What a processor made of images and text.

    Attributes
    ----------
    inputs : dict of str to Tensor
        Arguments of the model; ``input_ids`` is (1, n_prompt).
    expanded : str
        The text that was tokenized, each placeholder expanded into its image's tokens.
    """

    inputs: dict[str, torch.Tensor]
    expanded: str


class _Overhearing:
    """A tokenizer that remembers what it was asked to tokenize; anything else is the original's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: Any = None, *args: Any, **options: Any) -> Any:
        first = text[0] if isinstance(text, (list, tuple)) and text else text
        if isinstance(first, str):
            self.heard.append(first)
        return self._tokenizer(text, *args, **options)


class Processes(Facts):
    """A model whose processor is asked."""

    def process(
        self, images: Sequence[Image.Image], text: str, *, rendered: bool = False
    ) -> Processed:
        """Send images and a prompt's text through the model's own processor.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
        text : str
        rendered : bool
            Whether a chat template made the text; a text model's tokenizer then adds no special
            tokens of its own.

        Raises
        ------
        PromptError
            If the processor refuses them.
        """
        bos = self.tokenizer.bos_token
        # A template may write the first token out; the tokenizer must then not add a second. The
        # template of a text model writes all of them (the same rules as `apply_chat_template` has).
        complete = bool(bos and text.startswith(bos)) or (rendered and self.family.text_only)
        options = {"add_special_tokens": False} if complete else {}
        overhearing = _Overhearing(self.tokenizer)
        try:
            if self.family.text_only:
                encoded = overhearing([text], return_tensors="pt", **options)
            else:
                # A shallow copy: the user's processor keeps its own tokenizer.
                processor = copy.copy(self.processor)
                processor.tokenizer = overhearing
                # Nested, one list per text, as the processor's own chat-template path passes them:
                # LLaVA-OneVision takes a flat list for as many texts with one image each.
                pictures = {"images": [list(images)]} if images else {}
                encoded = processor(**pictures, text=[text], return_tensors="pt", **options)
        except (ValueError, IndexError) as error:
            raise PromptError(
                f"the processor of {self.model_id!r} refused the prompt {text!r}: {error}"
            ) from error
        inputs = {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in encoded.items()
            if isinstance(value, torch.Tensor) and name != "labels"
        }
        if self.family.text_only:
            inputs = {
                name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs
            }
        known = len(self.model.get_input_embeddings().weight)
        ids = inputs[
            "input_ids"
        ]  # a placeholder may be outside: its embeddings come from the image
        largest = int(ids.masked_fill(ids == self.image_token_id, 0).max()) if ids.numel() else 0
        if largest >= known:
            raise UnsupportedModelError(
                f"the tokenizer's token {largest} is outside the vocabulary of {self.model_id!r}, "
                f"{known} tokens; give the processor that belongs to the model"
            )
        return Processed(inputs, overhearing.heard[0] if overhearing.heard else text)

    def pixels(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """Send images through the model's image processor.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
        """
        inputs = self.processor.image_processor(images=images, return_tensors="pt")
        if "pixel_values" not in inputs:
            raise UnsupportedModelError(
                f"the image processor of {self.model_id!r} returns {', '.join(inputs)}, and no "
                "pixel_values to look at"
            )
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }


def whole_inputs(
    inputs: Mapping[str, torch.Tensor], token_ids: torch.Tensor, fill: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Return the prompt's inputs extended to the whole sequence.

    Parameters
    ----------
    inputs : mapping of str to Tensor
    token_ids : Tensor of int64, shape (1, T)
    fill : mapping of str to int
        What an input of one number per token holds for generated tokens, where that is not 1 for
        ``attention_mask`` and 0 for all others.
    """
    n_prompt = inputs["input_ids"].shape[1]
    n_new = token_ids.shape[1] - n_prompt
    given = {}
    for name, value in inputs.items():
        if name == "input_ids":
            value = token_ids
        elif name == "cross_attention_mask":  # (1, T, images, tiles)
            value = torch.cat([value, value[:, -1:].expand(-1, n_new, -1, -1)], dim=1)
        elif name == "attention_mask" or name.endswith("token_type_ids"):
            number = fill.get(name, int(name == "attention_mask"))
            value = torch.cat([value, value.new_full((1, n_new), number)], dim=1)
        given[name] = value
    return given
