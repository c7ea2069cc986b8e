"""Messages quote what they were given, and stay short enough to be read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import causal_lvlm as cl
from causal_lvlm.cli import app
from causal_lvlm.errors import OutputError, PromptError, one_line, quoted, readable, shortened

LONG = "a very long text, " * 60_000  # a million characters


def test_a_short_message_is_left_as_it_is():
    for text in ("", "no word 'red' in the answer", "x " * 1000, "it's the model's " * 30):
        assert readable(text) == text
    assert quoted("a'b") == repr("a'b") and shortened("abc", 3) == "abc"


def test_what_is_quoted_is_shortened_and_the_advice_is_kept():
    for given in (LONG, "x" * 10**6, LONG.replace(" ", "\n"), "é" * 10**6, "'\"" * 10**5):
        for message in (f"no word {given!r} in the answer; known are red, blue",
                        f"no word “{given}” in the answer; known are red, blue"):  # fmt: skip
            said = one_line(PromptError(message))
            assert said.startswith("no word ") and said.endswith("; known are red, blue")
            assert len(said) < 3200 and "characters …" in said
    assert len(str(OutputError(5, "failed", "/" + "x" * 10**6))) < 500
    assert len(quoted(LONG)) < 200 and len(quoted(list(range(10**5)))) < 200


CALLS = {
    "method": lambda trace, text: cl.attribute(trace, 0, text),
    "option": lambda trace, text: cl.attribute(trace, 0, "random", **{text: 1}),
    "target": lambda trace, text: cl.explain(trace, text),
    "masking": lambda trace, text: cl.explain(trace, 0, masking=text),
    "source": lambda trace, text: cl.explain(trace, 0, source=text),
    "mode": lambda trace, text: cl.explain(trace, 0, mode=text),
    "against": lambda trace, text: cl.explain(trace, 0, tester="contrast", against=text),
    "layer": lambda trace, text: cl.explain(trace, 0, layer=text),
    "max_runs": lambda trace, text: cl.explain(trace, 0, max_runs=text),
    "units": lambda trace, text: cl.attribute(trace, 0, "random", units=text),
    "metric": lambda trace, text: cl.evaluate(trace, 0, ["random"], metrics=[text]),
    "algorithm": lambda trace, text: cl.learn_structure(np.eye(4), n_samples=9, algorithm=text),
    "input": lambda trace, text: cl.learn_structure(np.eye(4), n_samples=9, input=text),
    "table": lambda trace, text: cl.learn_structure([[text]], n_samples=9),
    "model": lambda trace, text: cl.load_model(text),
    "device": lambda trace, text: cl.load_model(device=text),
    "dtype": lambda trace, text: cl.load_model(dtype=text),
    "max_memory": lambda trace, text: cl.load_model(max_memory=text),
    "image": lambda trace, text: trace.model.run(text, "what?"),
    "file": lambda trace, text: cl.Explanation.load(text),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("text", [LONG, "x" * 10**6], ids=["words", "run"])
def test_a_million_characters_are_not_echoed(embedded_model, name, text):
    from causal_lvlm.tiny import sample_inputs

    sample = sample_inputs()[0]
    trace = embedded_model.run(sample.image_path, sample.prompt, max_new_tokens=1)
    if name == "against" and " " in text:
        pytest.skip("a text means its first token")
    with pytest.raises((ValueError, TypeError, OSError, cl.errors.CausalLVLMError)) as told:
        CALLS[name](trace, text)
    assert len(one_line(told.value)) < 3500
    if not isinstance(told.value, OSError) or isinstance(told.value, cl.errors.CausalLVLMError):
        assert len(str(told.value)) < 3500


def test_nor_by_the_command_line(tmp_path):
    data = tmp_path / "items.jsonl"
    for item in (
        {"image": "x" * 10**6, "prompt": "what?"},
        {"image": None, "prompt": 5, LONG: 1},
        {"image": None, "prompt": "what?", "target": {"a": LONG}},
        {"image": [LONG, 1], "prompt": "?"},
    ):
        data.write_text(json.dumps(item) + "\n")
        done = CliRunner().invoke(app, ["evaluate", str(data), "--out", str(tmp_path / "r.jsonl")])
        assert done.exit_code == 2 and len(done.stderr) < 3500, done.stderr[:500]
    for arguments in (
        ["explain", "x" * 100_000 + ".png", "what?"], ["report", "x" * 100_000],
        ["learn", "x" * 100_000, "--alpha", "0.1"], ["evaluate", "x" * 100_000, "--out", "r.jsonl"],
        ["explain", "what?", "--method", "x" * 100_000], ["app", "--results", "x" * 100_000],
        ["evaluate", str(data), "--out", "r.jsonl", "--masking", "x" * 100_000],
    ):  # fmt: skip
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2 and 0 < len(done.stderr) < 3500, (arguments[0], done.exception)
