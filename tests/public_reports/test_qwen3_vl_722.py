"""Qwen3-VL #722: settings given to `generate` had no effect, and the answer was always the same.

The checkpoint's generation settings (``top_k=1``, a penalty of 1.05) filled in what the call left
open. Here they are set aside as a whole, which is recorded, and stay on the model.
"""

from __future__ import annotations

import torch
from transformers import GenerationConfig

from causal_lvlm.lvlm import LVLM
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image


def test_settings_of_the_checkpoint_do_not_fill_what_the_call_leaves_open():
    model, processor = BUILDERS["qwen2_5_vl"]()
    lvlm, image = LVLM(model, processor), noise_image((60, 60), seed=2)
    plain = lvlm.run(image, "what is it?", max_new_tokens=6)
    own = {"do_sample": True, "top_k": 1, "temperature": 1e-6, "repetition_penalty": 9.0}
    model.generation_config = GenerationConfig(**own, eos_token_id=[3, 2], pad_token_id=0)
    inputs = dict(plain.prepared.inputs)
    theirs = model.generate(**inputs, max_new_tokens=6)[0].tolist()
    assert theirs != plain.layout.token_ids.tolist()  # they do matter
    trace = lvlm.run(image, "what is it?", max_new_tokens=6)
    assert trace.layout.token_ids.tolist() == plain.layout.token_ids.tolist()
    assert trace.parameters["set_aside"] == own
    with torch.no_grad():  # every token is the model's first choice
        n_prompt = trace.layout.n_prompt
        logits = trace.prepared.logits(trace.prepared.embeds, trace.prepared.positions, 0)[0]
    first = logits[n_prompt - 1 : -1].argmax(-1).tolist()
    assert first == trace.layout.token_ids[n_prompt:].tolist()
    assert model.generate(**inputs, max_new_tokens=6)[0].tolist() == theirs
