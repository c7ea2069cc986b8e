"""`LVLM`: a vision-language model with what this package needs to know about it.

It knows where the parts are (decoder, vision tower, attention modules), runs the language model on
merged embeddings, and keeps whatever is put on the model inside a `LVLM.session`. `LVLM.run` is the
way into the package for an image and a prompt; its steps are in `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from inspect import signature
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache

from causal_lvlm.errors import (
    CaptureError,
    UnsupportedModelError,
    quoted,
)
from causal_lvlm.lvlm.attention_function import Recorder, recording, switched
from causal_lvlm.lvlm.compiled import uncompiled
from causal_lvlm.lvlm.context import Context, decoder_arguments, injected, read_context
from causal_lvlm.lvlm.families import Family, family_of
from causal_lvlm.lvlm.given import check_weights, plain_model
from causal_lvlm.lvlm.images import ImageLike
from causal_lvlm.lvlm.inputs import Processed, process, whole_inputs
from causal_lvlm.lvlm.layout import token_text
from causal_lvlm.lvlm.pace import Pace
from causal_lvlm.lvlm.parts import Parts
from causal_lvlm.lvlm.state import kept, own_modes, plain_generation
from causal_lvlm.lvlm.threads import one_thread
from causal_lvlm.lvlm.trace import Trace

__all__ = ["LVLM"]

_TINY_WIDTH = 512  # language models narrower than this run best on one thread


class LVLM:
    """A loaded vision-language model; make one with `causal_lvlm.load_model`.

    Parameters
    ----------
    model : PreTrainedModel
        A model for image and text to text of a supported family. Nothing on it is changed for
        longer than a call: one in training mode is evaluated without dropout, and stays in it.
    processor : ProcessorMixin
    model_id : str
        Hub id or path it came from.
    revision : str, optional
    family : Family, optional
        What there is to say about the model's family, where it is not in the table; see
        `causal_lvlm.load_model`.

    Attributes
    ----------
    model, processor, model_id, revision
        As given.
    max_memory : int, str or None
        What one call that evaluates masked rows may take (``"2GB"``); None takes what is fastest.
    family : Family
    tokenizer : PreTrainedTokenizerBase
    placeholder : str
        What stands for the image in a prompt.
    pace : Pace
        What was measured about the size of batches.

    Raises
    ------
    UnsupportedModelError
        If the model's type is not supported, or the processor is not one for image and text.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        model_id: str = "in memory",
        revision: str | None = None,
        *,
        family: Family | None = None,
    ) -> None:
        self.model = plain_model(model)
        self.family = family_of(self.model.config, family)
        check_weights(self.model)
        if self.family.text_only:
            self.tokenizer = getattr(processor, "tokenizer", None) or processor
            if not callable(getattr(self.tokenizer, "decode", None)):
                raise UnsupportedModelError(
                    f"{model_id!r} needs a tokenizer, got {type(processor).__name__}"
                )
        else:
            for part in ("tokenizer", "image_processor"):
                if getattr(processor, part, None) is None:
                    raise UnsupportedModelError(
                        f"the processor of {model_id!r} ({type(processor).__name__}) has no "
                        f"{part}; a processor for image and text is needed"
                    )
            self.tokenizer = processor.tokenizer
        self.processor = processor
        self.model_id = model_id
        self.revision = revision
        self.max_memory: int | str | None = None  # of one call that evaluates masked rows
        self._parts = Parts(self.model, self.family)
        self.placeholder, self.image_token_id = self._image_token()
        self.is_tiny = int(self.text_config.hidden_size) < _TINY_WIDTH
        self._geometry_errors: dict[Any, float] = {}
        self._places: dict[Any, Any] = {}  # see `placing`; of families that no test has painted
        self.pace = Pace()

    def _image_token(self) -> tuple[str, int]:
        """Return what stands for an image in a prompt, and its tokens' id ("", -1: none)."""
        if self.family.text_only:
            return "", -1
        own = getattr(self.processor, self.family.placeholder_from, None)
        token = self.family.placeholder or own or "<image>"
        found = getattr(self.model.config, "image_token_id", None)
        if found is None:
            found = getattr(self.processor, "image_token_id", None)
        if found is None:
            raise UnsupportedModelError(
                f"{self.model_id!r} does not say which token is the image's"
            )
        return str(getattr(token, "content", token)), int(found)

    # -- its parts, as they stood when the last session began ----------------------------------

    @property
    def parts(self) -> Parts:
        """Where its modules are; another object as soon as one of them was replaced."""
        return self._parts

    @property
    def decoder(self) -> Any:
        """The language model's module."""
        return self._parts.decoder

    @property
    def head(self) -> Any:
        """The module that is called for logits."""
        return self._parts.head

    @property
    def tower(self) -> Any:
        """The vision tower's module; None in a text model."""
        return self._parts.tower

    @property
    def text_config(self) -> Any:
        """Configuration of the language model."""
        return self._parts.text_config

    @property
    def cross_attention(self) -> frozenset[int]:
        """``id`` of the modules that look at the image rather than at the sequence."""
        return self._parts.cross_attention

    def _current_parts(self) -> Parts:
        """Return the parts, found anew where a module is not what it was."""
        if not self._parts.current:
            self._parts = Parts(self.model, self.family)
        return self._parts

    # -- what it is ---------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        found = torch.device(self.model.device)
        if found.type != "meta":
            return found
        # Weights on disk are nowhere until their layer is called: accelerate's hooks know where.
        hooks = (getattr(module, "_hf_hook", None) for module in self.model.modules())
        places = (getattr(hook, "execution_device", None) for hook in hooks)
        return torch.device(next((place for place in places if place is not None), "cpu"))

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
        parts = self._current_parts()
        if parts.attention is None:
            letter = self.tokenizer.encode("a", add_special_tokens=False) or [0]
            known = len(self.model.get_input_embeddings().weight)
            ids = torch.full((1, 2), int(letter[0]) % known, device=self.device)
            recorder = Recorder(record=True)
            with self.session(), recording(recorder), torch.no_grad():
                parts.head(input_ids=ids, use_cache=False)
            if not recorder.calls:
                raise CaptureError(
                    f"the language model of {self.model_id!r} "
                    f"({type(parts.decoder).__name__}) does not use the attention interface of "
                    "transformers, so its attention cannot be captured"
                )
            parts.attention = tuple(call.module for call in recorder.calls)
        return parts.attention

    @property
    def drop_is_exact(self) -> bool:
        """Whether leaving tokens out, positions unchanged, equals hiding them from attention.

        True with full attention in every layer. Windows count tokens by their place in the
        sequence, so they reach further when some are left out.
        """
        return set(self._parts.layer_kinds) <= {"DynamicLayer"}

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """What each attention layer looks at: ``full``, or ``window`` (sliding or in chunks)."""
        kinds = self._parts.layer_kinds
        found = []
        for number, module in enumerate(self.attention_modules):
            index = int(getattr(module, "layer_idx", number))
            kind = kinds[index] if index < len(kinds) else "DynamicLayer"
            found.append("window" if "Sliding" in kind or "Chunked" in kind else "full")
        return tuple(found)

    @property
    def only_drop(self) -> bool:
        """Whether some layers mix tokens without attention, so that blocking would not do."""
        looking = len(self._parts.attention or self.attention_modules) + len(self.cross_attention)
        return looking < int(self.text_config.num_hidden_layers)

    def layer_indices(self, layers: Any) -> list[int]:
        """Turn layer numbers, negative ones counted from the end, into indices.

        Layers without attention (linear, convolution) do not count. ``"global"`` is the last one
        that looks at the whole sequence, in a model where some look at a window only.

        Parameters
        ----------
        layers : sequence of int, or str

        Raises
        ------
        IndexError
            If there is no such layer.
        """
        n_layers = len(self.attention_modules)
        alone = isinstance(layers, (int, np.integer, str))
        chosen = [self._last_global() if k == "global" else k for k in ([layers] * alone or layers)]
        for layer in chosen:
            if not -n_layers <= layer < n_layers:
                raise IndexError(
                    f"layer {layer} is out of range: the language model has {n_layers} attention "
                    f"layers, allowed {-n_layers}..{n_layers - 1}"
                )
        return [int(layer) % n_layers for layer in chosen]

    def _last_global(self) -> int:
        kinds = self.attention_kinds
        if "full" not in kinds:
            raise IndexError(
                f"every attention layer of {self.model_id!r} looks at a window only; give a number"
            )
        return len(kinds) - 1 - kinds[::-1].index("full")

    def layer_remark(self, layer: int) -> str | None:
        """Say so if a layer looks at a window of the sequence only; None if it sees all of it.

        Parameters
        ----------
        layer : int or str
            As in `Trace.attention`.

        Raises
        ------
        IndexError
            If there is no such layer.
        """
        kinds, index = self.attention_kinds, self.layer_indices(layer)[0]
        if kinds[index] == "full":
            return None
        window = _size(self.text_config, "sliding_window", "attention_chunk_size")
        size = "" if window is None else f" of {window} tokens"
        remark = (
            f"attention layer {index} of {self.model_id!r} looks at a window{size} only, so its "
            "attention says nothing about tokens further back"
        )
        if "full" not in kinds:
            return f"{remark}; so do all its layers"
        return f"{remark}; the last layer that sees them all is {self._last_global()}"

    def describe(self) -> dict[str, Any]:
        """Return the model's facts: type, sizes, number format, device."""
        text = self.text_config
        vision = getattr(self.model.config, "vision_config", None)
        return {
            "model_id": self.model_id,
            "revision": self.revision,
            "family": self.family.name,
            "model_type": self.model.config.model_type,
            "language_model": text.model_type,
            "vision_tower": getattr(vision, "model_type", None),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "layers": int(text.num_hidden_layers),
            "heads": int(text.num_attention_heads),
            "hidden_size": int(text.hidden_size),
            "vocabulary": int(text.vocab_size),
            "vision_layers": _size(vision, "num_hidden_layers", "depth"),
            "vision_heads": _size(vision, "num_attention_heads", "num_heads"),
            "image_size": _size(vision, "image_size"),
            "patch_size": _size(vision, "patch_size"),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }

    def __repr__(self) -> str:
        """Return a short description."""
        return f"LVLM({self.model_id!r}, {self.family.name}, {self.device})"

    # -- running it ---------------------------------------------------------------------------

    @contextmanager
    def session(self, *, tower: bool = False) -> Iterator[None]:
        """Use the model as this package does until the block ends; then it is as it was.

        With our attention function, in evaluation mode (see `state`), uncompiled, a small model on
        one thread.

        Parameters
        ----------
        tower : bool
            Also in the vision tower.
        """
        parts = self._current_parts()
        alone = one_thread(self.is_tiny and self.device.type == "cpu")
        aside = kept(self.model, parts.modules)
        switch = switched(parts.configs(tower=tower))
        with alone, own_modes(self.device), uncompiled(parts.modules), switch, aside:
            yield

    @contextmanager
    def plain_generation(self) -> Iterator[None]:
        """Set aside the checkpoint's own settings of generation until the block ends."""
        with plain_generation(self.model, self._current_parts().modules):
            yield

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
        return process(self, images, text, rendered=rendered)

    def embed(
        self, inputs: Mapping[str, torch.Tensor], token_ids: torch.Tensor
    ) -> tuple[torch.Tensor, Context]:
        """Merge image features into the embeddings of a sequence, as the model itself does.

        Parameters
        ----------
        inputs : mapping of str to Tensor
            What the processor returned for the prompt.
        token_ids : Tensor of int64, shape (1, T)
            Prompt and answer.

        Returns
        -------
        (Tensor, Context)
            Embeddings (1, T, D + additions) and whatever else the language model is given.
        """
        table = self.model.get_input_embeddings()
        if self.family.text_only:
            embeds = table(token_ids)
            positions = torch.arange(token_ids.shape[1], device=token_ids.device)[None]
            return embeds, Context(embeds.shape[-1], positions)
        n_prompt = int(inputs["input_ids"].shape[1])
        # A model may generate the image's token; only those of the prompt stand for features.
        stray = (token_ids == self.image_token_id) & (
            torch.arange(token_ids.shape[1], device=token_ids.device) >= n_prompt
        )
        given = whole_inputs(inputs, token_ids.masked_fill(stray, 0), self.family.fill)
        found = decoder_arguments(self.decoder, lambda: self.model(**given, use_cache=False))
        if found.get("inputs_embeds") is None and found.get("input_ids") is not None:
            found["inputs_embeds"] = table(found["input_ids"])  # the image enters elsewhere
        embeds, context = read_context(found)
        if stray.any():
            embeds = embeds.clone()
            embeds[:, stray[0], : context.width] = table(token_ids[stray])[None]
        return embeds, context

    def logits(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        rows: int | torch.Tensor,
        cache: DynamicCache | None = None,
        context: Context | None = None,
    ) -> torch.Tensor:
        """Run the language model and its head on merged embeddings.

        Parameters
        ----------
        embeds : Tensor, shape (B, L, D + additions)
        positions : Tensor of int64, shape (B, L)
            Which position of the sequence each is, ascending.
        rows : int or Tensor of int64
            Logits of the last so many rows are returned, 0 for all; or of the rows given by number.
        cache : DynamicCache, optional
            Keys and values of what stands before.
        context : Context, optional
            What the language model is given beside embeddings; plain causality if left out.

        Returns
        -------
        Tensor, shape (B, rows, vocabulary)
        """
        past = cache.get_seq_length() if cache is not None else 0
        given: dict[str, Any] = {"inputs_embeds": embeds, "position_ids": positions}
        more: dict[str, Any] = {}
        if context is not None:
            more = context.arguments(embeds, positions, past)
            given["inputs_embeds"] = more["inputs_embeds"]
            if context.is_plain:
                given, more = more, {}
            elif "per_layer_inputs" in more and self._takes("per_layer_inputs"):
                given["per_layer_inputs"] = more["per_layer_inputs"]
        # An explicit mask of ones: without a mask, gaps in the position ids would be taken for
        # several sequences packed into one.
        given["attention_mask"] = torch.ones(
            len(embeds), past + embeds.shape[1], dtype=torch.long, device=embeds.device
        )
        given.update(past_key_values=cache, use_cache=cache is not None, logits_to_keep=rows)
        with injected(self.decoder, more) if more else nullcontext():
            logits: torch.Tensor = self.head(**given).logits
        return logits

    def _takes(self, name: str) -> bool:
        """Whether the head's call has an argument of this name (older ones hand it on twice)."""
        return name in signature(type(self.head).forward).parameters

    def run(
        self,
        image: ImageLike | Sequence[ImageLike] | None,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        max_new_tokens: int = 64,
        chat_template: bool | None = None,
        seed: int | None = None,
        strict: bool = False,
        on_token: Callable[[int, str], None] | None = None,
    ) -> Trace:
        """Ask about images, or about text alone, and keep everything needed to explain the answer.

        Parameters
        ----------
        image : path, bytes, PIL image or ndarray, or a list of them, or None
            None asks about text alone.
        prompt : str or sequence of dict
            Used verbatim if the chat template has rendered it already, or if it holds the image
            placeholder, once for each image; otherwise the chat template is applied, or the
            family's plain frame where there is none. Several turns are given as messages,
            ``[{"role": "user", "content": ...}, ...]``.
        max_new_tokens : int
        chat_template : bool, optional
            Force the template on or off. Off, every character of a prompt that needs no place for
            an image is kept.
        seed : int, optional
            Recorded only: decoding is greedy, nothing is random.
        strict : bool
            Raise `SelfCheckError` instead of warning when the self-check fails.
        on_token : callable, optional
            Called as ``on_token(token_id, text)`` as soon as the model has chosen a token, `text`
            being the answer up to and with it; the last is the trace's ``answer``. Whatever it
            raises ends the generation and reaches the caller; the model stays as it was.

        Returns
        -------
        Trace

        Raises
        ------
        ImageError, PromptError, EmptyAnswerError, UnsupportedModelError
            If an input cannot be used (a prompt may be longer than the model's context), or the
            model generates nothing.
        TypeError
            If `on_token` cannot be called.
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
            on_token=on_token,
        )

    def randomised(self, n_layers: int, *, seed: int, head: bool = True) -> LVLM:
        """Return a copy whose upper decoder layers are re-initialised, from the last one down.

        See `causal_lvlm.lvlm.randomise`. The copy takes as much memory as the model.

        Parameters
        ----------
        n_layers : int
            How many layers, 0 .. number of decoder layers.
        seed : int
        head : bool
            Whether the head and the norm before it are re-initialised too.

        Raises
        ------
        ValueError
            If `n_layers` or `seed` is out of range.
        UnsupportedModelError
            If the model is quantised or offloaded, or its layers are not in one list.
        """
        from causal_lvlm.lvlm.randomise import randomised

        return randomised(self, n_layers, seed=seed, head=head)

    def token_text(self, token_id: int) -> str:
        """Return a token as a person would read it, with the leading space it carries.

        Parameters
        ----------
        token_id : int
        """
        return token_text(self.tokenizer, int(token_id))

    def token_id(self, token: int | str) -> int:
        """Return the id of a token given by id or text (the first token of the text).

        Parameters
        ----------
        token : int or str
            An id, or text whose first token is meant.

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
            raise ValueError(
                f"{quoted(token)} has no token in the vocabulary of {quoted(self.model_id)}"
            )
        if not 0 <= int(token) < vocabulary:
            raise ValueError(f"token id {token} is outside the vocabulary of {vocabulary}")
        return int(token)


def _size(config: Any, *names: str) -> Any:
    """Return the first of some attributes of a configuration that is a number, else None."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, (list, tuple)):
            value = value[0]
        if isinstance(value, int):
            return value
    return None
