"""Models as they are given, by name or in memory: checked before they are used.

Whatever a model cannot do for this package is said when it is loaded, not once it has answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from causal_lvlm.errors import CausalLVLMError, UnsupportedModelError, quoted
from causal_lvlm.lvlm.backbone import Backbone
from causal_lvlm.lvlm.prompts import render_prompt

__all__ = ["check_complete", "check_type", "check_use", "pair"]


def pair(given: Any) -> tuple[Any, Any]:
    """Return model and processor of what was given in place of a name.

    Raises
    ------
    UnsupportedModelError
        If it is no tuple or list of a model and a processor, in this order.
    """
    usage = "load_model((model, processor))"
    if isinstance(given, torch.nn.Module):
        raise UnsupportedModelError(
            f"a {type(given).__name__} alone was given; give its processor (a tokenizer for a text "
            f"model), too: {usage}"
        )
    if not isinstance(given, (tuple, list)):
        raise UnsupportedModelError(
            f"a model is given by its name, its folder or as a pair, {usage}; got "
            f"{type(given).__name__}"
        )
    kinds = ", ".join(type(item).__name__ for item in given)
    if len(given) != 2:
        raise UnsupportedModelError(f"a pair is needed, {usage}; got {len(given)}: {kinds}")
    model, processor = given
    if isinstance(processor, torch.nn.Module) and not isinstance(model, torch.nn.Module):
        raise UnsupportedModelError(f"the pair is the wrong way round ({kinds}): {usage}")
    return model, processor


def check_type(source: str | Path, raw: Any) -> None:
    """Refuse a type that transformers does not know, before any code of a checkpoint could run.

    Parameters
    ----------
    source : str or path
    raw : dict
        What stands in its ``config.json``.

    Raises
    ------
    UnsupportedModelError
    """
    model_type = raw.get("model_type") if isinstance(raw, Mapping) else None
    if model_type is None or model_type in transformers.CONFIG_MAPPING:
        return
    reason = f"transformers {transformers.__version__} does not know its type {quoted(model_type)}"
    if raw.get("auto_map"):
        advice = (
            "it brings code of its own, whose parts are not known here; describe them with "
            "load_model(..., family=Family(...), trust_remote_code=True), or give a checkpoint "
            "converted to a type that is listed by `causal-lvlm models`"
        )
    else:
        advice = "a newer version may; `causal-lvlm models` lists the types"
    raise UnsupportedModelError(
        f"the model {quoted(str(source))} cannot be loaded: {reason}; {advice}"
    )


def check_complete(source: str | Path, info: Any) -> None:
    """Refuse a checkpoint that lacks weights: transformers makes them up at random.

    Parameters
    ----------
    source : str or path
    info : mapping
        What ``from_pretrained`` tells about the loading.

    Raises
    ------
    UnsupportedModelError
    """
    missing = sorted(info.get("missing_keys") or ()) if isinstance(info, Mapping) else []
    if missing:
        raise UnsupportedModelError(
            f"the checkpoint {quoted(str(source))} lacks {len(missing)} weights of its model "
            f"({missing[0]}, ...), which would be made up at random; give a whole checkpoint, or "
            "load it with transformers and give the pair: load_model((model, processor))"
        )


def check_use(lvlm: Backbone) -> None:
    """Prove that attention can be captured, and that a type nobody has tested takes an image.

    Parameters
    ----------
    lvlm : Backbone

    Raises
    ------
    CaptureError
        If the language model does not use the attention interface.
    UnsupportedModelError
        If what the model gives its language model is not understood.
    """
    lvlm.attention_modules  # noqa: B018 (found by running two tokens)
    family = lvlm.family
    if family.text_only or family.tested:
        return
    picture = Image.new("RGB", (96, 64), (90, 120, 150))
    who = f"type {lvlm.model.config.model_type!r} ({lvlm.model_id!r}) cannot be used"
    try:
        rendered = render_prompt(
            lvlm.processor,
            "What is it?",
            placeholder=lvlm.placeholder,
            plain_frame=family.plain_frame,
            in_text=not family.prepends,
            around=family.around,
        )
        with lvlm.session(), torch.no_grad():
            inputs = lvlm.process([picture], rendered.text, rendered=rendered.rendered).inputs
            lvlm.embed(inputs, inputs["input_ids"])
    except CausalLVLMError as error:
        raise UnsupportedModelError(f"{who}: {error}") from error
    # A model that no test has run, asked in a way that may not be its own.
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise UnsupportedModelError(
            f"{who}: a picture and a question end in an error inside the model ({said:.200}); "
            "`causal-lvlm models` lists the types that are tested"
        ) from error
