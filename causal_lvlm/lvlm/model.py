"""`LVLM`: a vision-language model with what this package needs to know about it.

It knows where the parts are (decoder, vision tower, attention modules), runs the language model on
merged embeddings, and keeps whatever is put on the model inside a `LVLM.session`. `LVLM.run` is the
way into the package for an image and a prompt; its steps are in `run`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache

from causal_lvlm.errors import (
    CaptureError,
    UnsupportedModelError,
)
from causal_lvlm.lvlm.attention_function import Recorder, recording, switched
from causal_lvlm.lvlm.families import family_of
from causal_lvlm.lvlm.images import ImageLike
from causal_lvlm.lvlm.layout import token_text
from causal_lvlm.lvlm.threads import one_thread
from causal_lvlm.lvlm.trace import Trace

__all__ = ["LVLM"]

_TINY_WIDTH = 512  # language models narrower than this run best on one thread


class LVLM:
    """A loaded vision-language model; make one with `causal_lvlm.load_model`.

    Parameters
    ----------
    model : PreTrainedModel
        A model for image and text to text of a supported family. It is put into evaluation mode;
        nothing else on it is changed for longer than a call.
    processor : ProcessorMixin
    model_id : str
        Hub id or path it came from.
    revision : str, optional

    Attributes
    ----------
    model, processor, model_id, revision
        As given.
    family : Family
    tokenizer : PreTrainedTokenizerBase
    placeholder : str
        What stands for the image in a prompt.

    Raises
    ------
    UnsupportedModelError
        If the model's type is not supported, or the processor is not one for image and text.
    """

    def __init__(
        self, model: Any, processor: Any, model_id: str = "in memory", revision: str | None = None
    ) -> None:
        self.family = family_of(getattr(getattr(model, "config", None), "model_type", None))
        for part in ("tokenizer", "image_processor"):
            if getattr(processor, part, None) is None:
                raise UnsupportedModelError(
                    f"the processor of {model_id!r} ({type(processor).__name__}) has no {part}; "
                    "a processor for image and text is needed"
                )
        self.model = getattr(model, "_orig_mod", model).eval()  # the model inside torch.compile
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.model_id = model_id
        self.revision = revision
        self.decoder: Any = self.model.get_decoder()
        self.tower = self.family.tower(self.model)
        self.text_config: Any = self.decoder.config
        self.placeholder = str(getattr(processor, "image_token", "<image>"))
        image_token_id = getattr(self.model.config, "image_token_id", None)
        if image_token_id is None:
            image_token_id = getattr(processor, "image_token_id", None)
        if image_token_id is None:
            raise UnsupportedModelError(f"{model_id!r} does not say which token is the image's")
        self.image_token_id = int(image_token_id)
        self.is_tiny = int(self.text_config.hidden_size) < _TINY_WIDTH
        self._attention_modules: tuple[torch.nn.Module, ...] | None = None
        self._geometry_errors: dict[tuple[int, int], float] = {}

    # -- what it is ---------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the language model."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def attention_modules(self) -> tuple[torch.nn.Module, ...]:
        """Attention modules of the language model, in the order they are called.

        Found by running two tokens: only modules that go through the attention interface count.
        """
        if self._attention_modules is None:
            width = self.model.get_input_embeddings().weight.shape[1]
            embeds = torch.zeros(1, 2, width, dtype=self.dtype, device=self.device)
            recorder = Recorder(record=True)
            with self.session(), recording(recorder), torch.no_grad():
                self.logits(embeds, torch.arange(2, device=self.device)[None], 1)
            if not recorder.calls:
                raise CaptureError(
                    f"the language model of {self.model_id!r} "
                    f"({type(self.decoder).__name__}) does not use the attention interface of "
                    "transformers, so its attention cannot be captured"
                )
            self._attention_modules = tuple(call.module for call in recorder.calls)
        return self._attention_modules

    @property
    def drop_is_exact(self) -> bool:
        """Whether leaving tokens out, positions unchanged, equals hiding them from attention.

        True with full attention in every layer. Windows count tokens by their place in the
        sequence, so they reach further when some are left out.
        """
        layers = DynamicCache(config=self.text_config).layers
        return all(type(layer).__name__ == "DynamicLayer" for layer in layers)

    @property
    def only_drop(self) -> bool:
        """Whether some layers mix tokens without attention, so that blocking would not do."""
        return len(self.attention_modules) < int(self.text_config.num_hidden_layers)

    def layer_indices(self, layers: Any) -> list[int]:
        """Turn layer numbers, negative ones counted from the end, into indices.

        Raises
        ------
        IndexError
            If there is no such layer.
        """
        n_layers = len(self.attention_modules)
        chosen = [layers] if isinstance(layers, (int, np.integer)) else list(layers)
        for layer in chosen:
            if not -n_layers <= layer < n_layers:
                raise IndexError(
                    f"layer {layer} is out of range: the language model has {n_layers} attention "
                    f"layers, allowed {-n_layers}..{n_layers - 1}"
                )
        return [int(layer) % n_layers for layer in chosen]

    def describe(self) -> dict[str, Any]:
        """Return the model's facts: type, sizes, number format, device."""
        text, vision = self.text_config, self.model.config.vision_config
        return {
            "model_id": self.model_id,
            "revision": self.revision,
            "family": self.family.name,
            "model_type": self.model.config.model_type,
            "language_model": text.model_type,
            "vision_tower": vision.model_type,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "layers": int(text.num_hidden_layers),
            "heads": int(text.num_attention_heads),
            "hidden_size": int(text.hidden_size),
            "vocabulary": int(text.vocab_size),
            "vision_layers": int(vision.num_hidden_layers),
            "vision_heads": int(vision.num_attention_heads),
            "image_size": int(vision.image_size),
            "patch_size": int(vision.patch_size),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }

    def __repr__(self) -> str:
        """Return a short description."""
        return f"LVLM({self.model_id!r}, {self.family.name}, {self.device})"

    # -- running it ---------------------------------------------------------------------------

    @contextmanager
    def session(self, *, tower: bool = False) -> Iterator[None]:
        """Use our attention function (and one thread for a small model) until the block ends."""
        configs = {id(m.config): m.config for m in self.decoder.modules() if hasattr(m, "config")}
        if tower:
            found = (m.config for m in self.tower.modules() if hasattr(m, "config"))
            configs.update({id(config): config for config in found})
        with one_thread(self.is_tiny and self.device.type == "cpu"), switched(configs.values()):
            yield

    def pixels(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """Send images through the model's image processor."""
        inputs = self.processor.image_processor(images=images, return_tensors="pt")
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }

    def merge(self, token_ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Put image features in place of the embeddings of image tokens.

        Parameters
        ----------
        token_ids : Tensor of int64, shape (1, T)
        features : Tensor, shape (B, n_image_tokens, D)

        Returns
        -------
        Tensor, shape (B, T, D)
        """
        embeds = self.model.get_input_embeddings()(token_ids)
        embeds = embeds.expand(len(features), -1, -1)
        is_image = token_ids == self.image_token_id
        # A model may generate the image's token; only those of the prompt stand for features.
        is_image = is_image & (is_image.cumsum(dim=-1) <= features.shape[1])
        is_image = is_image[..., None].expand_as(embeds)
        merged: torch.Tensor = embeds.masked_scatter(
            is_image, features.to(embeds.device, embeds.dtype)
        )
        return merged

    def logits(
        self,
        embeds: torch.Tensor,
        position_ids: torch.Tensor,
        rows: int,
        cache: DynamicCache | None = None,
    ) -> torch.Tensor:
        """Run the language model and its head on merged embeddings.

        Parameters
        ----------
        embeds : Tensor, shape (B, L, D)
        position_ids : Tensor of int64, shape (B, L)
        rows : int
            Logits of the last so many rows are returned; 0 for all.
        cache : DynamicCache, optional
            Keys and values of what stands before.

        Returns
        -------
        Tensor, shape (B, rows, vocabulary)
        """
        past = cache.get_seq_length() if cache is not None else 0
        # An explicit mask of ones: without a mask, gaps in the position ids would be taken for
        # several sequences packed into one.
        mask = torch.ones(
            len(embeds), past + embeds.shape[1], dtype=torch.long, device=embeds.device
        )
        output = self.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=rows,
        )
        logits: torch.Tensor = output.logits
        return logits

    def run(
        self,
        image: ImageLike,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        chat_template: bool | None = None,
        seed: int | None = None,
        strict: bool = False,
    ) -> Trace:
        """Ask about an image and keep everything needed to explain the answer.

        Parameters
        ----------
        image : path, bytes, PIL image or ndarray
        prompt : str
            Used verbatim if it holds the image placeholder; otherwise the chat template is
            applied, or the family's plain frame where there is none.
        max_new_tokens : int
        chat_template : bool, optional
            Force the template on or off.
        seed : int, optional
            Recorded only: decoding is greedy, nothing is random.
        strict : bool
            Raise `SelfCheckError` instead of warning when the self-check fails.

        Returns
        -------
        Trace

        Raises
        ------
        ImageError, PromptError, EmptyAnswerError, UnsupportedModelError
            If an input cannot be used, or the model generates nothing.
        """
        from causal_lvlm.lvlm.run import run

        return run(
            self,
            image,
            prompt,
            max_new_tokens=max_new_tokens,
            chat_template=chat_template,
            seed=seed,
            strict=strict,
        )

    def token_text(self, token_id: int) -> str:
        """Return a token as a person would read it, with the leading space it carries."""
        return token_text(self.tokenizer, int(token_id))

    def token_id(self, token: int | str) -> int:
        """Return the id of a token given by id or text (the first token of the text).

        Raises
        ------
        ValueError
            If the text has no tokens, or the id is outside the vocabulary.
        """
        vocabulary = int(self.text_config.vocab_size)
        if isinstance(token, str):
            # In running text a word follows a space; sub-word tokenizers code that in the token.
            for text in (" " + token.strip(), token):
                for found in self.tokenizer.encode(text, add_special_tokens=False):
                    unknown = found == self.tokenizer.unk_token_id
                    if token_text(self.tokenizer, found).strip() and not unknown:
                        return int(found)
            raise ValueError(f"{token!r} has no token in the vocabulary of {self.model_id!r}")
        if not 0 <= int(token) < vocabulary:
            raise ValueError(f"token id {token} is outside the vocabulary of {vocabulary}")
        return int(token)
