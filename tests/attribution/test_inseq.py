"""The same text, the same decoder, another library: inseq (where it is installed)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from causal_lvlm.lvlm import LVLM
from causal_lvlm.methods import attribute
from tests.models import _rescale, word_tokenizer

inseq = pytest.importorskip("inseq")

N_GENERATED = 4


def build(tokenizer):
    """Return a random decoder that never answers with a special token."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=2, eos_token_id=3,
        pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    _rescale(model)
    with torch.no_grad():
        model.get_output_embeddings().weight[:9] = 0.0
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 3, 0
    return model


@pytest.mark.parametrize("method", ["input_x_gradient", "attention"])
def test_every_generated_token_has_the_scores_that_inseq_gives(method):
    tokenizer = word_tokenizer()
    trace = LVLM(build(tokenizer), tokenizer).run(
        None, "what color is the circle", max_new_tokens=N_GENERATED
    )
    other = build(tokenizer)
    other.set_attn_implementation("eager")
    ids = trace.layout.token_ids
    asked, answered = (
        tokenizer.decode(part, skip_special_tokens=True)
        for part in (ids[: trace.layout.n_prompt], ids)
    )
    told = inseq.load_model(other, method, tokenizer=tokenizer, device="cpu").attribute(
        asked, answered, show_progress=False, pretty_progress=False,
        **({"attributed_fn": "logit"} if method == "input_x_gradient" else {}),
    )  # fmt: skip
    theirs = told.sequence_attributions[0].target_attributions.numpy()
    for k in range(N_GENERATED):
        step = theirs[:, k]  # (T, d), or (T, layers, heads)
        expected = step.sum(axis=-1) if method == "input_x_gradient" else step[:, -1].mean(axis=-1)
        stop = trace.layout.n_prompt + k
        ours = attribute(trace, k, method).scores[:stop]
        np.testing.assert_allclose(ours, expected[:stop], atol=2e-5)
        assert np.ptp(ours) > 0.05


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.8, 0.95])
def test_one_step_of_reagent_changes_the_levels_as_inseq_does(chance):
    from inseq.attr.feat.ops.reagent_core import importance_score_evaluator

    from causal_lvlm.attribution.reagent import _advance, _Rule, _Run

    n_units, full = 7, 0.8

    class Probe:
        units, n_drawn = range(n_units), 0

        def positions_of(self, chosen):
            return chosen

        def probability(self, replaced, draws):
            self.replaced = replaced
            return np.full(len(replaced), chance)

        def among_first(self, replaced, draws, top_k):
            return np.zeros(len(replaced), dtype=bool)

    probe, run = Probe(), _Run(np.random.default_rng([1, 2]), n_units)
    start = run.logits.copy()
    _advance([run], 1, probe, _Rule(full, ratio=0.4, keep=3, top_k=3, min_steps=1))
    assert 0 < probe.replaced.sum() < n_units

    logits = torch.zeros(1, 1, 2)
    logits[..., 0] = float(np.log(chance / (1 - chance)))
    theirs = importance_score_evaluator.DeltaProbImportanceScoreEvaluator(
        model=lambda **inputs: {"logits": logits},
        tokenizer=word_tokenizer(),
        token_replacer=lambda ids: (ids, torch.tensor(probe.replaced)),
        stopping_condition_evaluator=None,
        max_steps=1,
    )
    expected = theirs.update_importance_score(
        torch.tensor(start)[None], torch.zeros(1, n_units, dtype=torch.long),
        torch.tensor([0]), torch.tensor([[full]]),
    )  # fmt: skip
    np.testing.assert_allclose(run.logits, expected[0].numpy(), atol=1e-5)
