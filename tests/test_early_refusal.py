"""Bad options are refused before a model is loaded or run, by type, and say what was meant."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import causal_lvlm as cl
from causal_lvlm import checks
from causal_lvlm.cli import app
from causal_lvlm.errors import (
    BudgetError,
    CausalLVLMError,
    OptionError,
    OptionTypeError,
    OutputError,
)
from causal_lvlm.explanation.explain import check_explain_options
from causal_lvlm.storage import write_bytes
from tests.explanation.fakes import FakeTrace

ITEM = '{"image": null, "prompt": "what ?"}\n'


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run a command whose model must not be loaded; return what it said."""

    def load(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(cl, "load_model", load)
    (tmp_path / "items.jsonl").write_text(ITEM, encoding="utf-8")

    def run(name, *arguments):
        given = [name, "what ?", *arguments]
        if name == "evaluate":
            given = [name, str(tmp_path / "items.jsonl"), "--out", str(tmp_path / "r"), *arguments]
        done = CliRunner().invoke(app, given)
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output and done.stdout == ""
        return " ".join(done.stderr.split())

    return run


@pytest.mark.parametrize(
    ("content", "prompt", "said"),
    [
        (b"no picture", "what ?", "cannot be read as an image"),
        (b"\x89PNG\r\n", "what ?", "image"),
        (None, " ", "empty"),
    ],
    ids=["text", "cut", "empty prompt"],
)
def test_pictures_and_prompts_are_looked_at_before_a_model_is_loaded(
    command, tmp_path, monkeypatch, content, prompt, said
):
    given = []
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
        given = [str(tmp_path / "a.png")]
    done = CliRunner().invoke(app, ["explain", *given, prompt])
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.output


EXPLAIN = [
    (("--masking", "blur"), "did you mean 'pixels-blur'?"),
    (("--masking", "Remove"), "did you mean 'remove'?"),
    (("--mode", "sufficent"), "did you mean 'sufficient'?"),
    (("--tester", "contrats"), "did you mean 'contrast'?"),
    (("--candidates", "images"), "did you mean 'image'?"),
    (("--source", "influences"), "did you mean 'influence'?"),
    (("--layer", "efective"), "did you mean 'effective'?"),
    (("--row", "preditor"), "did you mean 'predictor'?"),
    (("--sink", "dorp"), "did you mean 'drop'?"),
    (("--search", "guide"), "did you mean 'guided'?"),
    (("--method", "relevance"), "did you mean 'relevancy' or"),
    (("--method", "gradcam"), "did you mean 'grad_cam'?"),
    (("--metric", "deletions"), "did you mean 'deletion'?"),
    (("--against", "blue"), "tester='contrast' only"),
    (("--tester", "contrast", "--against", " "), "names no token"),
    (("--source", "output", "--layer", "mean"), "combines attention"),
    (("--source", "influence", "--layer", "2"), "spans all layers"),
    (("--source", "influence", "--row", "own"), "row='own' has no place"),
    (("--masking", "pixels-mean", "--candidates", "text"), "text has none"),
    (("--alpha", "0.01"), "alpha goes with n_samples"),
    (("--alpha", "2", "--n-samples", "50"), "alpha must be a number between 0 and 1"),
    (("--threshold", "1.5"), "threshold must be a number between 0 and 1"),
    (("--threshold", "0.1", "--n-samples", "50"), "not both"),
    (("--n-samples", "2"), "n_samples must be a whole number of at least 4"),
    (("--max-radius", "0"), "max_radius must be"),
    (("--pool", "0"), "pool must be"),
    (("--max-runs", "1"), "max_runs must be"),
    (("--time-limit", "nan"), "time_limit"),
    (("--time-limit", "-3"), "time_limit"),
    (("--seed", "-1"), "seed"),
    (("--max-new-tokens", "0"), "max-new-tokens must be"),
    (("--target", ""), "target"),
]


@pytest.mark.parametrize(("arguments", "part"), EXPLAIN)
def test_explain_refuses_before_a_model_is_loaded(command, arguments, part):
    assert part in command("explain", *arguments)


EVALUATE = [
    (("--masking", "blurr"), "did you mean 'blur'?"),
    (("--metrics", "deletion[pixels]"), "did you mean 'pixels-blur' or 'pixels-mean'?"),
    (("--metrics", "insertoin"), "did you mean 'insertion'?"),
    (("--methods", "relevancy,roll-out-"), "did you mean 'rollout'?"),
    (("--units", "patch+words"), "did you mean 'word'?"),
    (("--units", "blocks:2"), "did you mean 'block'?"),
    (("--methods", "causal", "--option", "causal.max_run=3"), "did you mean 'max_runs'?"),
    (("--methods", "causal", "--option", "causal.masking=blur"), "did you mean 'pixels-blur'?"),
    (("--methods", "causal", "--option", "causal.max_runs=many"), "max_runs must be"),
    (("--methods", "rise", "--option", "rise.n_masks=3.5"), "n_masks must be a whole number"),
    (("--methods", "rise", "--option", "rise.masks=3"), "did you mean 'n_masks'?"),
    (("--methods", "attn_attrib", "--option", "attn_attrib.n_probs=3"), "did you mean 'n_probes'?"),
    (("--methods", "causal", "--option", "casual.max_runs=3"), "did you mean 'causal'?"),
    (("--seed", "-1"), "seed"),
    (("--jobs", "0"), "jobs must be"),
    (("--max-new-tokens", "0"), "max_new_tokens must be"),
]


@pytest.mark.parametrize(("arguments", "part"), EVALUATE)
def test_evaluate_refuses_before_a_model_is_loaded(command, arguments, part):
    assert part in command("evaluate", *arguments)


class Silent(FakeTrace):
    """A trace whose model must not be asked."""

    def evaluate(self, *_, **__):
        pytest.fail("the model was run")

    backward = attention = iter_attention = head_values = evaluate


TRACE = Silent(lambda visible: True)
WRONG = [
    {"mode": None}, {"tester": 1}, {"against": ["blue"], "tester": "contrast"},
    {"against": True, "tester": "contrast"}, {"drop_ratio": "half"}, {"drop_ratio": None},
    {"heads": 3}, {"heads": "some"}, {"heads": [0.5]}, {"layer": 1.5}, {"layer": None},
    {"layer": [1]}, {"source": 3}, {"sink": True}, {"row": 1}, {"tiers": None}, {"pool": "2"},
    {"top_k": 0}, {"min_attention": "much"}, {"algorithm": print}, {"algorithm": "fcii"},
    {"variant": "stabel"}, {"max_conditioning_size": -1}, {"max_tests": "many"},
    {"alpha": "x", "n_samples": 9}, {"n_samples": 8.5}, {"threshold": [0.1]}, {"search": list},
    {"max_radius": None}, {"max_size": 1.5}, {"max_runs": "5"}, {"time_limit": "soon"},
    {"candidates": 5}, {"candidates": None}, {"candidates": ["a"]}, {"masking": FakeTrace},
    {"backend": "gpu"}, {"n_random": None}, {"seed": 1.0}, {"force": "yes"}, {"n_jobs": 0},
    {"progress": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_wrong_types_are_refused_before_anything_is_run(options):
    error = BudgetError if {"max_runs", "time_limit"} & set(options) else OptionError
    with pytest.raises(error) as found:
        cl.explain(TRACE, 0, **options)
    assert next(iter(options)) in str(found.value)
    with pytest.raises(error):
        check_explain_options(options)


def test_a_layer_that_the_model_lacks_is_refused_before_it_is_run():
    with pytest.raises(CausalLVLMError, match="layer 7 is out of range"):
        cl.explain(TRACE, 0, layer=7)


def test_an_unknown_option_is_named_with_what_was_meant():
    with pytest.raises(OptionTypeError, match="no option max_run; did you mean 'max_runs'"):
        check_explain_options({"max_run": 3})


@pytest.mark.parametrize("trace", [None, "trace", 3, {"layout": 1}, [TRACE]])
def test_what_is_no_trace_is_refused(trace):
    for call in (
        lambda: cl.explain(trace, 0), lambda: cl.exhaustive_explanation(trace, 0),
        lambda: cl.attribute(trace, 0), lambda: cl.evaluate(trace, 0, []),
    ):  # fmt: skip
        with pytest.raises(OptionTypeError, match=r"what model\.run\(image, prompt\) returns"):
            call()


@pytest.mark.parametrize("method", [print, lambda trace: 0, FakeTrace, None, 3, ["rise"]])
def test_a_function_is_no_method_and_the_message_says_what_to_do(method):
    with pytest.raises(OptionTypeError, match=r"evaluate\(trace, target, \('name', scores\)"):
        cl.attribute(TRACE, 0, method)
    with pytest.raises(TypeError):
        cl.attribute(TRACE, 0, method=method)


@pytest.mark.parametrize("metric", [print, [len], ["deletion", lambda case: 0], 3, [None]])
def test_a_function_is_no_metric_and_the_message_says_what_to_do(metric):
    with pytest.raises(OptionTypeError, match=r"causal_lvlm\.metrics\.Case"):
        cl.evaluate(TRACE, 0, [("a", [1.0] * 6)], metric)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"metrics": "deletio"}, "did you mean 'deletion'"),
        ({"metrics": "deletion", "masking": "blurr"}, "did you mean 'blur'"),
        ({"metrics": "deletion", "steps": "few"}, "steps must be a whole number or None"),
        ({"metrics": "deletion", "share": "unit"}, "did you mean 'units'"),
        ({"metrics": "deletion", "step": 2}, "did you mean 'steps'"),
        ({"metrics": "deletion", "units": 3}, "units must be a name"),
        ({"metrics": "deletion", "units": "words"}, "did you mean 'word'"),
        ({"metrics": "deletion", "ties": "rand"}, "did you mean 'random'"),
        ({"metrics": "deletion", "seed": -1}, "seed must be"),
    ],
)
def test_evaluate_refuses_before_anything_is_run(options, part):
    with pytest.raises(OptionError, match=part):
        cl.evaluate(TRACE, 0, [("a", [1.0] * 6)], **options)


@pytest.mark.parametrize(
    ("method", "options", "part"),
    [
        ("rise", {"n_masks": "few"}, "n_masks must be a whole number"),
        ("rise", {"n_masks": True}, "n_masks must be a whole number"),
        ("rise", {"binarise": "sampel"}, "did you mean 'sample'"),
        ("causal", {"span": "hole"}, "did you mean 'whole'"),
        ("causal", {"tester": "flop"}, "did you mean 'flip'"),
        ("rollout", {"add_residual": 2}, "add_residual must be a text or True or False"),
        ("attention", {"lair": 2}, "did you mean 'layer'"),
        ("integrated_gradients", {"n_steps": 2.5}, "n_steps must be a whole number"),
        ("leave_one_out", {"units": "wrod"}, "did you mean 'word'"),
        ("relevancy", {"seed": -1}, "seed must be"),
    ],
)
def test_attribute_refuses_before_anything_is_run(method, options, part):
    with pytest.raises(OptionError, match=part):
        cl.attribute(TRACE, 0, method, **options)


def test_messages_repeat_no_more_than_a_line_of_what_was_given():
    for value in ("x" * 1_000_000, ["x" * 1000] * 1000, b"y" * 10**6, {"a": "z" * 10**6}):
        with pytest.raises(OptionError) as found:
            cl.explain(TRACE, 0, masking=value)
        assert len(str(found.value)) < 300


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("blur", "pixels-blur"), ("PIXELS_MEAN", "pixels-mean"), ("remvoe", "remove"),
        (" edges ", "edges"), ("nuetral", "neutral"), ("xyz", ""), ("", ""),
    ],
)  # fmt: skip
def test_what_was_meant_is_guessed_only_where_it_is_near(value, hint):
    said = checks.nearest(value, ("remove", "edges", "neutral", "pixels-blur", "pixels-mean"))
    assert said == (f"; did you mean {hint!r}?" if hint else "")


def test_options_of_loading_and_running_are_of_one_kind_of_error(embedded_model):
    """What Python refuses by itself (unknown keywords) aside, every error is of this package."""
    for options, words in (
        ({"dtype": "float33"}, "dtype must be"),
        ({"device": "cudda"}, "cannot be used here"),
        ({"device": "meta"}, "without values"),
        ({"max_memory": "lots"}, "max_memory must be"),
    ):
        with pytest.raises(OptionError, match=words):
            cl.load_model(**options)
    with pytest.raises(OptionTypeError, match=r"processor\.chat_template"):
        embedded_model.run(None, "red", chat_template="{{ messages }}")
    with pytest.raises(OptionTypeError, match="on_token must be callable"):
        embedded_model.run(None, "red", on_token=5)
    with pytest.raises(OptionTypeError, match="a result is an Attribution"):
        cl.evaluate(TRACE, 0, [max], metrics=["deletion"])
    with pytest.raises(OutputError, match="names no file to write"):
        write_bytes("", b"")
