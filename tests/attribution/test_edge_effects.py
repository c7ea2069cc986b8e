"""Scores of edges: the formula in full, and cuts one by one, say the same."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from causal_lvlm.attribution.edge_effects import edge_effects
from causal_lvlm.edges import cut
from causal_lvlm.errors import OptionError, UnsupportedModelError
from causal_lvlm.tiny import sample_inputs
from causal_lvlm.tokens import candidate_units
from tests.lvlm.plain import Plain, case

FAMILIES = ("llava", "gemma3", "text_gemma2")


def in_full(trace, target, kind, layers=None):
    """Return scores (reader, source) from whole attention matrices, edge by edge."""
    length = len(trace.layout)
    total = np.zeros((length, length))
    for layer in trace.backward(target, score="margin").language():
        if layers is not None and layer.layer not in layers:
            continue
        for a, g in zip(layer.attention.astype(float), layer.gradient.astype(float), strict=True):
            for j in range(length):
                mean = sum(a[j, k] * g[j, k] for k in range(length))
                for i in range(length):
                    if kind == "attention_gradient":
                        total[j, i] += abs(a[j, i] * g[j, i])
                    else:
                        total[j, i] += a[j, i] / max(1 - a[j, i], 1e-6) * (g[j, i] - mean)
    return total


@pytest.mark.parametrize("kind", ["gradient", "attention_gradient"])
@pytest.mark.parametrize("name", FAMILIES)
def test_blockwise_scores_are_the_formula_in_full(name, kind):
    _, trace = case(name)
    for target in (trace.target(2), trace.target(slice(1, 3))):
        for layers in (None, [0]):
            found = edge_effects(trace, target, kind=kind, layers=layers)
            expected = in_full(trace, target, kind, layers)
            source, reader = found.pairs.T
            np.testing.assert_allclose(
                found.scores,
                expected[reader, source],
                rtol=2e-3,
                atol=1e-5 * np.abs(expected).max(),
            )
            assert found.runs == 1


def test_the_differentiated_margin_is_the_targets_lead_over_its_strongest_rivals():
    _, trace = case("llava")
    for target in (trace.target(2), trace.target(slice(1, 3))):
        everything = np.ones((1, len(trace.layout)), dtype=bool)
        lead = trace.evaluate(everything, target).margin.sum()
        np.testing.assert_allclose(trace.backward(target, score="margin").score, lead, rtol=1e-4)


def test_exact_scores_are_differences_of_single_cuts():
    _, trace = case("llava")
    target = trace.target(slice(1, 3))
    everything = np.ones((1, len(trace.layout)), dtype=bool)
    plain = trace.evaluate(everything, target)
    found = edge_effects(trace, target, kind="exact", max_runs=20)
    assert np.isfinite(found.scores).sum() == 20
    assert found.runs == 22
    for k in np.flatnonzero(np.isfinite(found.scores)):
        one = trace.evaluate_edges(
            cut([tuple(found.pairs[k])]), target, rivals=plain.runner_up[0].tolist()
        )
        lost = plain.margin.sum() - (one.token_log_probs - one.rival_log_probs).sum()
        np.testing.assert_allclose(found.scores[k], lost, atol=2e-4)


def test_one_backward_pass_ranks_edges_as_cutting_them_does(embedded_model):
    rng, ranks = np.random.default_rng(0), []
    for sample in sample_inputs()[:5]:
        trace = embedded_model.run(sample.image_path, sample.prompt)
        target = trace.target(0)
        everything = np.ones((1, len(trace.layout)), dtype=bool)
        rivals = trace.evaluate(everything, target).runner_up[0].tolist()
        found = edge_effects(trace, target)
        some = rng.choice(len(found.pairs), 250, replace=False)
        cuts = [cut([tuple(p)]) for p in found.pairs[some].tolist()]
        margins = trace.evaluate_edges(cuts, target, rivals=rivals, batch_size=32).fixed_margin
        ranks.append(spearmanr(found.scores[some], -margins)[0])
    assert np.median(ranks) >= 0.95, ranks


def test_scores_between_nodes_are_sums_over_their_edges():
    _, trace = case("llava")
    target = trace.target(slice(1, 3))
    edges = trace.edges(target)
    nodes = edges.nodes(candidate_units(trace.layout, target, pool=2))
    found = edge_effects(trace, target)
    pairs, scores = found.between(nodes)
    assert (pairs == edges.between_nodes(nodes)).all()
    expected = {tuple(p): s for p, s in zip(found.pairs.tolist(), found.scores, strict=True)}
    for pair, score in zip(pairs.tolist(), scores, strict=True):
        members = edges.between(nodes, [tuple(pair)])
        total = sum(expected[tuple(m)] for m in members.tolist())
        np.testing.assert_allclose(score, total, atol=1e-9)


def test_attention_is_the_mean_over_layers_and_heads():
    _, trace = case("llava")
    found = edge_effects(trace, 2, kind="attention", layers=[1])
    expected = trace.attention([1])[0].mean(axis=0)
    source, reader = found.pairs.T
    np.testing.assert_allclose(found.scores, expected[reader, source], rtol=1e-5)


def test_bad_options_and_models_are_refused():
    _, trace = case("llava")
    with pytest.raises(OptionError, match="kind"):
        edge_effects(trace, 2, kind="grad")
    with pytest.raises(OptionError, match="max_runs"):
        edge_effects(trace, 2, kind="exact", max_runs=0)
    with pytest.raises(IndexError):
        edge_effects(trace, 2, layers=[99])
    with pytest.raises(UnsupportedModelError):
        edge_effects(case("qwen3_5")[1], 2)


def flow_by_hand(name, trace, target, layers=None):
    """Return relevance handed down by each edge, part by part, from a plain eager llama."""
    plain = Plain(name, trace)
    entered = []
    with ExitStack() as stack, torch.no_grad():
        for layer in plain.layers:
            hook = layer.register_forward_pre_hook(
                lambda _, args, kwargs: entered.append((*args, *kwargs.values())[0]),
                with_kwargs=True,
            )
            stack.callback(hook.remove)
        attentions = plain(output_attentions=True).attentions
    stop = target.positions[-1]
    relevance, total = np.zeros(stop), np.zeros((stop, stop))
    relevance[[p - 1 for p in target.positions]] = 1 / len(target.positions)
    for number in reversed(range(len(plain.layers))):
        layer, x = plain.layers[number], entered[number]
        attention = attentions[number][0].double().numpy()
        n_heads = len(attention)
        with torch.no_grad():
            values = layer.self_attn.v_proj(layer.input_layernorm(x))[0]
            values = values.view(len(values), -1, layer.self_attn.head_dim).double()
            weight = layer.self_attn.o_proj.weight.double()
        each = n_heads // values.shape[1]
        size = values.shape[2]
        brought = np.stack(
            [
                (values[:, h // each] @ weight[:, h * size : (h + 1) * size].T)
                for h in range(n_heads)
            ]
        )
        x = x[0].double().numpy()
        handed, kept = np.zeros((stop, stop)), np.zeros(stop)
        for j in range(stop):
            parts = {
                (h, i): attention[h, j, i] * brought[h, i]
                for h in range(n_heads)
                for i in range(j + 1)
            }
            y = x[j] + sum(parts.values())
            near = {k: max(np.abs(y).sum() - np.abs(y - z).sum(), 0) for k, z in parts.items()}
            own = max(np.abs(y).sum() - np.abs(y - x[j]).sum(), 0)
            whole = sum(near.values()) + own
            for (_, i), share in near.items():
                handed[j, i] += relevance[j] * share / whole
            kept[j] = own / whole
        if layers is None or number in layers:
            total += handed
        relevance = relevance * kept + handed.sum(axis=0)
    np.testing.assert_allclose(relevance.sum(), 1)
    return total


@pytest.mark.parametrize("name", ["llava", "text_llama", "text_qwen3"])
def test_flow_is_what_a_plain_model_hands_down_part_by_part(name):
    _, trace = case(name)
    for target, layers in ((trace.target(2), None), (trace.target(slice(0, 2)), [0])):
        found = edge_effects(trace, target, kind="flow", layers=layers)
        expected = flow_by_hand(name, trace, target, layers)
        source, reader = found.pairs.T
        np.testing.assert_allclose(found.scores, expected[reader, source], atol=1e-5)
        assert (found.scores >= 0).all() and found.scores.any() and found.runs == 1


@pytest.mark.parametrize(
    "name", ["text_opt", "qwen3_vl", "paligemma", "mllama", "molmo2", "llama4"]
)
def test_shares_of_flow_sum_to_one(name):
    _, trace = case(name)
    seen, allowed = [], trace.edges(2).allowed
    for layer, sources, kept in trace.iter_flow(trace.target(2)):
        np.testing.assert_allclose(sources.sum(axis=1) + kept, 1)
        assert (sources >= 0).all() and not sources[~allowed[: len(kept), : len(kept)]].any()
        seen.append(layer)
    assert seen == list(reversed(range(trace.n_layers)))


@pytest.mark.parametrize("name", ["text_gemma2", "text_phi", "text_gptneox", "gemma3n"])
def test_flow_is_refused_where_attention_is_not_added_as_it_is(name):
    _, trace = case(name)
    with pytest.raises(UnsupportedModelError, match="as it is"):
        edge_effects(trace, 2, kind="flow")


def test_flow_of_a_scaled_residual_is_refused(monkeypatch):
    lvlm, trace = case("text_granite")
    layer = lvlm.decoder.layers[0]
    monkeypatch.setattr(layer, "residual_multiplier", 0.5)
    with pytest.raises(UnsupportedModelError, match=r"layer 0 .* as it is"):
        edge_effects(trace, 2, kind="flow")
