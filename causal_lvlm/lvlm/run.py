"""From an image and a prompt to a `Trace`.

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
from causal_lvlm.lvlm.generation import answer_text, generate, own_settings, settings_remark
from causal_lvlm.lvlm.images import ImageLike, frames_remark, open_images
from causal_lvlm.lvlm.layout import build_layout
from causal_lvlm.lvlm.length import check_length
from causal_lvlm.lvlm.model import LVLM
from causal_lvlm.lvlm.placing import place
from causal_lvlm.lvlm.prepared import Prepared
from causal_lvlm.lvlm.prompts import render_prompt
from causal_lvlm.lvlm.ramp import geometry_error
from causal_lvlm.lvlm.selfcheck import check_run
from causal_lvlm.lvlm.trace import Link, Trace
from causal_lvlm.record import TraceRecord
from causal_lvlm.storage import versions

__all__ = ["run"]


def run(
    lvlm: LVLM,
    image: ImageLike | Sequence[ImageLike] | None,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int,
    chat_template: bool | None,
    seed: int | None,
    strict: bool,
    on_token: Callable[[int, str], None] | None = None,
) -> Trace:
    """Run the model once; arguments and errors as in `LVLM.run`."""
    max_new_tokens = whole_number("max_new_tokens", max_new_tokens, 1)
    seed = None if seed is None else whole_number("seed", seed, 0)
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
    pictures = open_images(image)
    if pictures and lvlm.family.text_only:
        raise ImageError(
            f"{lvlm.model_id!r} is a text model ({lvlm.model.config.model_type}); pass None for "
            "the image"
        )
    if len(pictures) > 1 and lvlm.family.prepends:
        raise ImageError(
            f"{lvlm.model_id!r} ({lvlm.family.name}) takes one image for each prompt and "
            f"{len(pictures)} were given; ask about each alone, or put them together as one picture"
        )
    rendered = render_prompt(
        lvlm.processor,
        prompt,
        placeholder=lvlm.placeholder,
        plain_frame=lvlm.family.plain_frame,
        chat_template=chat_template,
        n_images=len(pictures),
        in_text=not lvlm.family.prepends,
        around=lvlm.family.around,
    )
    check_text("the prompt", rendered.text, PromptError)
    with lvlm.session(), torch.no_grad():
        processed = lvlm.process(pictures, rendered.text, rendered=rendered.rendered)
        n_prompt = int(processed.inputs["input_ids"].shape[1])
        check_length(lvlm.text_config, lvlm.model_id, n_prompt, max_new_tokens)
        placed = place(lvlm, pictures, rendered.text, processed.inputs)
        said = generate(lvlm, processed.inputs, max_new_tokens, on_token)
    layout = build_layout(
        lvlm.tokenizer,
        said.token_ids,
        n_prompt,
        rendered,
        expanded=processed.expanded,
        placeholder=lvlm.placeholder,
        image_token_id=lvlm.image_token_id,
        images=[(c, picture.size) for c, picture in zip(placed.cells, pictures, strict=True)],
    )
    if not (layout.modality == "generated").any():
        raise EmptyAnswerError(
            f"{lvlm.model_id!r} generated nothing but {list(layout.generated)} for the prompt "
            f"{rendered.text!r}; ask differently"
        )
    sizes = tuple(picture.size for picture in pictures)
    if sizes not in lvlm._geometry_errors:
        # Rectangles depend on the sizes of the images alone.
        error = max(placed.error, geometry_error(lvlm, layout, sizes))
        lvlm._geometry_errors[sizes] = error
    prepared = Prepared(lvlm, pictures, layout, rendered.text, processed.inputs)
    check = check_run(prepared, said.log_probs, lvlm._geometry_errors[sizes])
    if not check.passed:
        message = (
            f"the self-check of {lvlm.model_id!r} failed: {check}; explanations of this run "
            "are not to be trusted"
        )
        if strict:
            raise SelfCheckError(message)
        warnings.warn(message, stacklevel=3)  # points at the caller of LVLM.run
    settings = own_settings(lvlm)
    remarks = (settings_remark(settings), placed.remark, *map(frames_remark, pictures))
    record = TraceRecord(
        prompt=rendered.text,
        answer=answer_text(lvlm, said.token_ids[n_prompt:]),
        image=pictures[0] if pictures else None,
        images=tuple(pictures),
        layout=layout,
        log_probs=said.log_probs,
        self_check=check,
        model_id=lvlm.model_id,
        revision=lvlm.revision,
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
            "dtype": str(lvlm.dtype).removeprefix("torch."),
            "device": str(lvlm.device),
            "geometry": placed.source,
            "geometry_remark": placed.remark,
        },
    )
    return Trace(record, Link(prepared))
