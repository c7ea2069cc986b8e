"""`Facts`: a model as it was given, what there is to know about it, and sessions to use it in.

It knows where the parts are (decoder, vision tower) and what the configurations say, and keeps
whatever is put on the model inside a `Facts.session`. Nothing here runs the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from causal_lvlm.errors import UnsupportedModelError, quoted
from causal_lvlm.lvlm.attention_function import switched
from causal_lvlm.lvlm.compiled import uncompiled
from causal_lvlm.lvlm.families import family_of
from causal_lvlm.lvlm.family import Family
from causal_lvlm.lvlm.geometry import KnownSizes
from causal_lvlm.lvlm.layout import token_text
from causal_lvlm.lvlm.memory import PeakMemory
from causal_lvlm.lvlm.pace import Pace
from causal_lvlm.lvlm.parts import Parts, check_weights, plain_model
from causal_lvlm.lvlm.state import kept, own_modes
from causal_lvlm.lvlm.threads import one_thread

__all__ = ["Facts", "size_of"]

_TINY_WIDTH = 512  # language models narrower than this run best on one thread


class Facts:
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
    known_sizes : KnownSizes
        What was found out about images of some sizes.

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
        self.known_sizes = KnownSizes()
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

    def current_parts(self) -> Parts:
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
    def drop_is_exact(self) -> bool:
        """Whether leaving tokens out, positions unchanged, equals hiding them from attention.

        True with full attention in every layer. Windows count tokens by their place in the
        sequence, so they reach further when some are left out.
        """
        return set(self._parts.layer_kinds) <= {"DynamicLayer"}

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
            "vision_layers": size_of(vision, "num_hidden_layers", "depth"),
            "vision_heads": size_of(vision, "num_attention_heads", "num_heads"),
            "image_size": size_of(vision, "image_size"),
            "patch_size": size_of(vision, "patch_size"),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }

    def __repr__(self) -> str:
        """Return a short description."""
        return f"LVLM({self.model_id!r}, {self.family.name}, {self.device})"

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
        parts = self.current_parts()
        alone = one_thread(self.is_tiny and self.device.type == "cpu")
        aside = kept(self.model, parts.modules)
        switch = switched(parts.configs(tower=tower))
        with alone, own_modes(self.device), uncompiled(parts.modules), switch, aside:
            yield

    def peak_memory(self) -> PeakMemory:
        """Return what measures the most memory that a block takes where the model is."""
        return PeakMemory(self.device)

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


def size_of(config: Any, *names: str) -> Any:
    """Return the first of some attributes of a configuration that is a number, else None."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, (list, tuple)):
            value = value[0]
        if isinstance(value, int):
            return value
    return None
