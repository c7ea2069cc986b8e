"""A second copy of a tiny model, run eagerly and by hand: what the probes are compared with."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch

from causal_lvlm.lvlm import LVLM
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image
from tests.lvlm.test_decoders import CASES, make

PROMPT = "What is it?"


def build(name: str) -> tuple[Any, Any]:
    """Return a new model and processor of a family, or of a small decoder behind an image."""
    model, processor = make(name) if name in CASES else BUILDERS[name]()
    return model, processor


@cache
def case(name: str, n_images: int = 1) -> tuple[LVLM, Any]:
    """Return a family's model and one trace of it."""
    lvlm = LVLM(*build(name))
    images = [noise_image((100, 60), seed=2 + i) for i in range(n_images)]
    return lvlm, lvlm.run(None if name.startswith("text_") else images, PROMPT, max_new_tokens=5)


class Plain:
    """The family's model on eager attention, with the whole sequence of a trace as its input."""

    def __init__(self, name: str, trace: Any) -> None:
        self.model, processor = build(name)
        self.model.set_attn_implementation("eager")
        images = {"images": list(trace.images)} if trace.images else {}
        inputs = dict(processor(**images, text=[trace.prompt], return_tensors="pt"))
        ids = torch.tensor(trace.layout.token_ids)[None]
        kept = {k: v for k, v in inputs.items() if k not in ("input_ids", "labels")}
        for _ in range(len(ids[0]) - trace.layout.n_prompt):
            kept = self.model._update_model_kwargs_for_generation(
                {}, kept, is_encoder_decoder=False
            )
        given = self.model.prepare_inputs_for_generation(
            ids, is_first_iteration=True, use_cache=False, **kept
        )
        self.given = {k: v for k, v in given.items() if k not in ("use_cache", "logits_to_keep")}
        self.decoder = self.model.get_decoder()
        modules = self.decoder.named_modules()
        self.layers = next(m for name, m in modules if name.rpartition(".")[2] == "layers")

    def __call__(self, **options: Any) -> Any:
        output = self.model(**self.given, use_cache=False, **options)
        return getattr(output, "language_model_outputs", None) or output

    @contextmanager
    def arguments(self, change: Any) -> Any:
        """Let a function change the keyword arguments of the decoder."""

        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            if kwargs.get("inputs_embeds") is None:
                ids = args[0] if args else kwargs.pop("input_ids")
                kwargs["inputs_embeds"] = module.get_input_embeddings()(ids)
            change(kwargs)
            return (), kwargs

        handle = self.decoder.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def head_inputs(self, change: Any) -> Any:
        """Let a function change what enters each layer's output projection: (layer, (T, H d))."""
        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):

                def hook(_: Any, args: Any, number: int = number) -> Any:
                    found = change(number, args[0])
                    return None if found is None else (found,)

                handle = layer.self_attn.o_proj.register_forward_pre_hook(hook)
                stack.callback(handle.remove)
            yield


def hide(hidden: Any, length: int) -> Any:
    """Return a change of arguments that hides keys in every layer, but from themselves."""
    closed = torch.tensor(np.asarray(hidden))[None, :] & ~torch.eye(length, dtype=torch.bool)
    lowest = torch.finfo(torch.float32).min

    def change(kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, dict):
            kwargs["attention_mask"] = {k: one(m) for k, m in mask.items()}
        else:
            kwargs["attention_mask"] = one(mask)

    def one(mask: Any) -> Any:
        if mask is None or mask.dim() == 2:
            visible = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        else:
            visible = mask if mask.dtype == torch.bool else mask == 0
        return torch.zeros(1, 1, length, length).masked_fill(~visible | closed, lowest)

    return change


def target_log_probs(logits: Any, target: Any) -> list[float]:
    """Return log-probabilities of the target's tokens from logits of the whole sequence (T, V)."""
    found = logits.double().log_softmax(-1)
    return [float(found[p - 1, i]) for p, i in zip(target.positions, target.token_ids, strict=True)]
