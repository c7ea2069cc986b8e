"""`LVLM`: a vision-language model with what this package needs to know about it.

`LVLM.run` is the only way into the package for an image and a prompt:

1. the image is opened upright, the prompt rendered (see `prompts`), both go through the model's own
   processor;
2. the model generates greedily with its own ``generate`` and cache; log-probabilities come from its
   unprocessed logits;
3. the layout is built and its geometry checked against a coordinate ramp;
4. one teacher-forced pass over prompt and answer, with image features computed once and merged by
   us, must reproduce the generation: everything later (attention, masking, gradients) rests on
   that pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache, GenerationConfig

from causal_lvlm.errors import (
    CaptureError,
    EmptyAnswerError,
    PromptError,
    SelfCheckError,
    UnsupportedModelError,
)
from causal_lvlm.lvlm.attention_function import Recorder, recording, switched
from causal_lvlm.lvlm.families import family_of
from causal_lvlm.lvlm.images import ImageLike, open_image
from causal_lvlm.lvlm.layout import build_layout, token_text
from causal_lvlm.lvlm.prompts import Prompt, render_prompt
from causal_lvlm.lvlm.threads import one_thread
from causal_lvlm.lvlm.trace import Trace
from causal_lvlm.storage import versions

if TYPE_CHECKING:
    from causal_lvlm.arrays import FloatArray
    from causal_lvlm.lvlm.geometry import Tile

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
        is_image = (token_ids == self.image_token_id)[..., None].expand_as(embeds)
        return embeds.masked_scatter(is_image, features.to(embeds.device, embeds.dtype))

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
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        picture = open_image(image)
        rendered = render_prompt(
            self.processor,
            prompt,
            placeholder=self.placeholder,
            plain_frame=self.family.plain_frame,
            chat_template=chat_template,
        )
        with self.session(), torch.no_grad():
            inputs = self._inputs(picture, rendered)
            sequence, log_probs, stop_ids = self._generate(inputs, max_new_tokens)
        n_prompt = int(inputs["input_ids"].shape[1])
        token_ids = [int(i) for i in sequence]
        tiles = self._tiles(picture.size, token_ids.count(self.image_token_id))
        layout = build_layout(
            self.tokenizer,
            token_ids,
            n_prompt,
            rendered,
            placeholder=self.placeholder,
            image_token_id=self.image_token_id,
            tiles=tiles,
            image_size=picture.size,
        )
        if not (layout.modality == "generated").any():
            raise EmptyAnswerError(
                f"{self.model_id!r} generated nothing but {list(layout.generated)} for the prompt "
                f"{rendered.text!r}; ask differently"
            )
        from causal_lvlm.lvlm.selfcheck import check_run, geometry_error

        if picture.size not in self._geometry_errors:
            self._geometry_errors[picture.size] = geometry_error(self, layout, picture.size)
        answer = self.tokenizer.decode(token_ids[n_prompt:], skip_special_tokens=True).strip()
        trace = Trace(
            prompt=rendered.text,
            answer=answer,
            image=picture,
            layout=layout,
            log_probs=log_probs,
            self_check=None,
            model_id=self.model_id,
            revision=self.revision,
            versions=versions(),
            parameters={
                "max_new_tokens": max_new_tokens,
                "chat_template": chat_template,
                "prompt_source": rendered.source,
                "decoding": "greedy",
                "finished": token_ids[-1] in stop_ids,
                "seed": seed,
                "dtype": str(self.dtype).removeprefix("torch."),
                "device": str(self.device),
            },
        )
        trace.attach(self, check=False)
        check = check_run(trace, self._geometry_errors[picture.size])
        object.__setattr__(trace, "self_check", check)
        if not check.passed:
            message = (
                f"the teacher-forced pass of {self.model_id!r} does not reproduce its generation "
                f"({check}); explanations of this run are not to be trusted"
            )
            if strict:
                raise SelfCheckError(message)
            warnings.warn(message, stacklevel=2)
        return trace

    def _inputs(self, image: Image.Image, prompt: Prompt) -> dict[str, torch.Tensor]:
        bos = self.tokenizer.bos_token
        # A template may write the first token out; the tokenizer must then not add a second.
        options = {"add_special_tokens": False} if bos and prompt.text.startswith(bos) else {}
        try:
            encoded = self.processor(
                images=[image], text=[prompt.text], return_tensors="pt", **options
            )
        except (ValueError, IndexError) as error:
            raise PromptError(
                f"the processor of {self.model_id!r} refused the prompt {prompt.text!r}: {error}"
            ) from error
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in encoded.items()
            if isinstance(value, torch.Tensor)
        }

    def _generate(
        self, inputs: dict[str, torch.Tensor], max_new_tokens: int
    ) -> tuple[torch.Tensor, FloatArray, set[int]]:
        """Generate greedily; returns (T,) ids, (G,) log-probabilities, and the stop tokens."""
        own = getattr(self.model, "generation_config", None)
        stop = getattr(own, "eos_token_id", None)
        stop = self.tokenizer.eos_token_id if stop is None else stop
        stops = [] if stop is None else [int(s) for s in np.atleast_1d(np.asarray(stop))]
        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            max_length=None,
            # A checkpoint's own penalties would make the answer differ from the model's argmax.
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=stops or None,
            pad_token_id=pad if pad is not None else (stops[0] if stops else 0),
            return_dict_in_generate=True,
            output_logits=True,
            use_cache=True,
        )
        output = self.model.generate(**inputs, generation_config=config)
        sequence = output.sequences[0]
        logits = torch.stack([step[0] for step in output.logits]).double()
        generated = sequence[len(sequence) - len(logits) :]
        log_probs = logits.log_softmax(dim=-1).gather(1, generated[:, None].to(logits.device))
        return sequence, log_probs[:, 0].cpu().numpy(), set(stops)

    def _tiles(self, image_size: tuple[int, int], n_tokens: int) -> list[Tile]:
        return self.family.geometry(self.model, self.processor, image_size, n_tokens)

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
