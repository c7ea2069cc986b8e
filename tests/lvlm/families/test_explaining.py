"""What explanations say of a family: windows, and which image a patch is of."""

from __future__ import annotations

from dataclasses import replace

import pytest

import causal_lvlm as cl
from causal_lvlm.errors import AttentionError
from causal_lvlm.explanation import PUBLISHED
from causal_lvlm.explanation.wording import members
from causal_lvlm.lvlm import LVLM
from tests.lvlm.families.tiny import BUILDERS
from tests.lvlm.helpers import noise_image

FEW = {"max_runs": 12, "n_random": 0, "max_tests": 2000}


def test_a_windowed_layer_is_named_and_the_global_one_is_not():
    lvlm = LVLM(*BUILDERS["gemma3"]())
    trace = lvlm.run(noise_image((60, 60), seed=1), "What is it?", max_new_tokens=3)
    windowed = [i for i, kind in enumerate(trace.attention_kinds) if kind != "full"]
    assert windowed, "this family has windows"
    published = cl.explain(trace, 1, **{**PUBLISHED, "layer": windowed[-1]}, **FEW)
    assert "looks at a window" in (published.layer_remark or "")
    whole = cl.explain(trace, 1, **{**PUBLISHED, "layer": "global"}, **FEW)
    assert whole.layer_remark is None


def test_a_decoder_of_windows_alone_has_no_global_layer():
    trace = LVLM(*BUILDERS["text_mistral"]()).run(None, "What is it?", max_new_tokens=3)
    assert set(trace.attention_kinds) == {"window"}
    with pytest.raises(AttentionError, match="give a number"):
        cl.explain(trace, 1, layer="global", **FEW)


def test_a_set_over_two_images_says_which_patch_is_of_which():
    lvlm = LVLM(*BUILDERS["llava"]())
    images = [noise_image((60, 60), seed=s) for s in (1, 2)]
    trace = lvlm.run(images, "Which one?", max_new_tokens=3)
    found = cl.explain(trace, 1, **FEW)
    first, second = (
        next(g.positions for g in trace.layout.grids if g.image == number) for number in (0, 1)
    )
    word = int(trace.layout.positions("prompt")[0])
    units = ((int(first[0]),), (int(second[0]),), (int(second[1]),), (word,))
    named = members(found.layout, replace(found.main, units=units))
    text = trace.layout.tokens[word].strip()
    member = f"the token “{text}” (of “Which”)"
    assert named == f"1 patch of image 0, 2 patches of image 1 and {member}"
