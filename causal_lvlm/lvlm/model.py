"""`LVLM`: from an image and a prompt to a `Trace`.

1. The image is opened upright, the prompt rendered (see `prompts`), and both go through the model's
   own processor.
2. Image tokens are given their rectangles (see `placing`).
3. The model generates greedily with its own ``generate`` and cache, its checkpoint's settings set
   aside (see `generation`); log-probabilities come from its unprocessed logits.
4. The layout is built and its geometry checked against a coordinate ramp.
5. One teacher-forced pass over prompt and answer, with image features computed once and merged by
   us, must reproduce the generation: everything later (attention, masking, gradients) rests on that
   pass.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from causal_lvlm.checks import check_text, whole_number
from causal_lvlm.errors import (
    EmptyAnswerError,
    ImageError,
    OptionTypeError,
    PromptError,
    SelfCheckError,
    quoted,
)
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.generation import answer_text, generate, own_settings, settings_remark
from causal_lvlm.lvlm.images import ImageLike, frames_remark, open_images
from causal_lvlm.lvlm.layout import build_layout
from causal_lvlm.lvlm.length import check_length
from causal_lvlm.lvlm.placing import place
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.prompts import render_prompt
from causal_lvlm.lvlm.ramp import geometry_error
from causal_lvlm.lvlm.randomise import check_redraw, redraw
from causal_lvlm.lvlm.selfcheck import check_run
from causal_lvlm.lvlm.trace import Trace
from causal_lvlm.record import TraceRecord
from causal_lvlm.storage import versions

__all__ = ["LVLM"]


class LVLM(Backbone):
    """A loaded vision-language model; make one with `causal_lvlm.load_model`.

    See `Facts` for its parameters and attributes.
    """

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
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1)
        seed = None if seed is None else whole_number("seed", seed, 0)
        _check_options(prompt, chat_template, on_token)
        pictures = open_images(image)
        self._check_pictures(len(pictures))
        rendered = render_prompt(
            self.processor,
            prompt,
            placeholder=self.placeholder,
            plain_frame=self.family.plain_frame,
            chat_template=chat_template,
            n_images=len(pictures),
            in_text=not self.family.prepends,
            around=self.family.around,
        )
        check_text("the prompt", rendered.text, PromptError)
        with self.session(), torch.no_grad():
            processed = self.process(pictures, rendered.text, rendered=rendered.rendered)
            n_prompt = int(processed.inputs["input_ids"].shape[1])
            check_length(self.text_config, self.model_id, n_prompt, max_new_tokens)
            placed = place(self, pictures, rendered.text, processed.inputs)
            said = generate(self, processed.inputs, max_new_tokens, on_token)
        layout = build_layout(
            self.tokenizer,
            said.token_ids,
            n_prompt,
            rendered,
            expanded=processed.expanded,
            placeholder=self.placeholder,
            image_token_id=self.image_token_id,
            images=[(c, picture.size) for c, picture in zip(placed.cells, pictures, strict=True)],
        )
        if not (layout.modality == "generated").any():
            raise EmptyAnswerError(
                f"{self.model_id!r} generated nothing but {list(layout.generated)} for the prompt "
                f"{rendered.text!r}; ask differently"
            )
        sizes = tuple(picture.size for picture in pictures)
        if sizes not in self.known_sizes.errors:
            # Rectangles depend on the sizes of the images alone.
            error = max(placed.error, geometry_error(self, layout, sizes))
            self.known_sizes.errors[sizes] = error
        prepared = Prepared(self, pictures, layout, rendered.text, processed.inputs)
        check = check_run(prepared, said.log_probs, self.known_sizes.errors[sizes])
        if not check.passed:
            message = (
                f"the self-check of {self.model_id!r} failed: {check}; explanations of this run "
                "are not to be trusted"
            )
            if strict:
                raise SelfCheckError(message)
            warnings.warn(message, stacklevel=2)
        settings = own_settings(self)
        remarks = (settings_remark(settings), placed.remark, *map(frames_remark, pictures))
        record = TraceRecord(
            prompt=rendered.text,
            answer=answer_text(self, said.token_ids[n_prompt:]),
            image=pictures[0] if pictures else None,
            images=tuple(pictures),
            layout=layout,
            log_probs=said.log_probs,
            self_check=check,
            model_id=self.model_id,
            revision=self.revision,
            versions=versions(),
            parameters={
                "max_new_tokens": max_new_tokens,
                "chat_template": chat_template,
                "prompt_source": rendered.source,
                "decoding": "greedy",
                "finished": said.finished,
                "set_aside": settings,
                "remarks": [r for r in remarks if r],
                "seed": seed,
                "dtype": str(self.dtype).removeprefix("torch."),
                "device": str(self.device),
                "geometry": placed.source,
                "geometry_remark": placed.remark,
            },
        )
        return Trace(record, prepared)

    def _check_pictures(self, count: int) -> None:
        """Refuse images where there is no place for them, or for so many."""
        if count and self.family.text_only:
            raise ImageError(
                f"{self.model_id!r} is a text model ({self.model.config.model_type}); pass None "
                "for the image"
            )
        if count > 1 and self.family.prepends:
            raise ImageError(
                f"{self.model_id!r} ({self.family.name}) takes one image for each prompt and "
                f"{count} were given; ask about each alone, or put them together as one picture"
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
        check_redraw(self, n_layers, seed)
        what = f"top {n_layers} layers{' and head' if head else ''} random, seed {seed}"
        other = LVLM(
            copy.deepcopy(self.model),
            self.processor,
            f"{self.model_id} ({what})",
            self.revision,
            family=self.family,
        )
        other.max_memory = self.max_memory
        other.known_sizes = self.known_sizes.copy()
        redraw(other, n_layers, seed=seed, head=head)
        return other


def _check_options(
    prompt: Any, chat_template: Any, on_token: Callable[[int, str], None] | None
) -> None:
    if on_token is not None and not callable(on_token):
        raise OptionTypeError(
            "on_token must be callable as on_token(token_id, text), or None, got "
            f"{type(on_token).__name__}"
        )
    if chat_template not in (None, True, False):
        raise OptionTypeError(
            f"chat_template must be True, False or None, got {quoted(chat_template)}; a template "
            "of your own is set on the processor: processor.chat_template = ..."
        )
    if isinstance(prompt, str):
        check_text("the prompt", prompt, PromptError)
