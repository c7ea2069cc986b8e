"""Head selection: mediation against hooks of plain torch, the file and its guards, one forward."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from causal_lvlm.attribution.heads import HeadChoice, attn_attrib, select_heads
from causal_lvlm.errors import OutputError, TargetError
from causal_lvlm.methods import attribute
from tests.attribution.conftest import make_layout


@pytest.fixture(scope="module")
def traces(embedded_model):
    from causal_lvlm.tiny import sample_inputs

    model = embedded_model
    return [model.run(s.image_path, s.prompt) for s in sample_inputs()[:3]]


@pytest.fixture(scope="module")
def choice(traces):
    return select_heads(traces, [0, 0, 0], n_heads=3)


class Mediated:
    """A model of 2 x 3 heads whose answer depends on which outputs are restored: additive."""

    gains = np.array([[0.0, 0.3, -0.1], [0.2, 0.0, 0.25]])
    model_id, revision, n_layers = "fake", "r1", 2
    model = SimpleNamespace(
        fingerprint=lambda: "f" * 32, peak_memory=lambda: nullcontext(SimpleNamespace(bytes=None))
    )

    def __init__(self):
        self.layout = make_layout()
        self.rows = self.forwards = 0
        self.kept = None
        weights = np.zeros((2, 3, 15, 15), dtype=np.float32)
        weights[..., 0] = 1.0
        # Every head looks at the frame, but (1, 0) wholly and (0, 1) half at the image.
        for layer, head, share in ((1, 0, 1.0), (0, 1, 0.5), (1, 2, 0.1)):
            weights[layer, head, :, 0] = 1 - share
            weights[layer, head, :, 3] = share
        self.weights = weights

    def iter_attention(self):
        self.forwards += 1
        yield from enumerate(self.weights)

    def attention(self, layers=(-1,)):
        self.forwards += 1
        return self.weights[list(layers)]

    def evaluate_heads(self, ablate, target, *, base, keep, masking, batch_size):
        assert base == "corrupt" and masking == "remove"
        self.kept = keep
        self.rows += len(ablate)
        p = 0.2 + (ablate * self.gains).sum(axis=(1, 2))
        return SimpleNamespace(log_prob=np.log(p), runs=len(ablate))


def test_heads_are_ordered_by_indirect_effect_and_by_effect_times_attention():
    trace = Mediated()
    found = select_heads([trace], ["red"], n_heads=3, rank="effect")
    np.testing.assert_allclose(found.effects, trace.gains, atol=1e-12)
    np.testing.assert_allclose(found.masses, [[0, 0.5, 0], [1, 0, 0.1]], atol=1e-7)
    assert found.heads == ((0, 1), (1, 2), (1, 0))
    assert (~trace.kept).nonzero()[0].tolist() == [2, 3, 4, 5, 6, 7]  # the image
    assert found.model_runs == trace.rows + 3  # two reference runs, one for attention
    weighed = select_heads([Mediated()], ["red"], n_heads=3)
    assert weighed.heads == ((1, 0), (0, 1), (1, 2))


def test_scores_are_the_mean_attention_of_the_chosen_heads_in_one_forward():
    trace = Mediated()
    found = attribute(trace, "red", "attn_attrib", heads=[(1, 0), (0, 1)])
    assert found.scores[3] == pytest.approx(0.75) and found.scores[0] == pytest.approx(0.25)
    assert found.model_runs == trace.forwards == 1


def test_without_a_choice_the_explained_trace_is_the_probe_and_the_runs_are_counted():
    trace = Mediated()
    found = attribute(trace, "red", "attn_attrib", n_heads=1)
    assert found.parameters["heads"] == [[1, 0]]
    assert found.model_runs == trace.rows + 2 + trace.forwards
    assert any("explained trace itself" in note for note in found.notes)


def test_indirect_effects_are_those_of_hooks_on_the_model(traces, choice):
    """Restore each head by a hook on the output projection, in a run that cannot see the image."""
    effects = []
    for trace in traces:
        prepared, lvlm = trace.prepared, trace.model
        target = trace.target(0)
        layout = trace.layout
        image = torch.tensor(layout.modality == "image")
        stop = target.start
        mask = torch.tril(torch.ones(stop, stop, dtype=torch.bool))
        hidden = mask & ~(image[:stop][None] & ~torch.eye(stop, dtype=torch.bool))
        layers = lvlm.decoder.layers
        n_heads, width = 4, 32

        def run(mask, edit, layers=layers, prepared=prepared, lvlm=lvlm, target=target, stop=stop):
            seen, handles = [], []
            for number, layer in enumerate(layers):

                def hook(_, args, number=number):
                    seen.append(args[0].clone())
                    return (edit(number, args[0].clone()),)

                handles.append(layer.self_attn.o_proj.register_forward_pre_hook(hook))
            with torch.no_grad():
                logits = lvlm.model.lm_head(
                    lvlm.decoder(
                        inputs_embeds=prepared.embeds[:, :stop],
                        attention_mask=mask[None, None],
                        use_cache=False,
                    ).last_hidden_state[:, -1]
                )
            for handle in handles:
                handle.remove()
            return float(logits.softmax(-1)[0, target.token_ids[0]]), seen

        _, clean = run(mask, lambda n, x: x)
        base, _ = run(hidden, lambda n, x: x)
        effect = np.zeros((len(layers), n_heads))
        for number in range(len(layers)):
            for head in range(n_heads):
                part = slice(head * width, (head + 1) * width)

                def edit(n, x, number=number, part=part, clean=clean):
                    if n == number:
                        x[..., part] = clean[n][..., part]
                    return x

                effect[number, head] = run(hidden, edit)[0] - base
        effects.append(effect)
    np.testing.assert_allclose(choice.effects, np.mean(effects, axis=0), atol=1e-4)


def test_a_choice_survives_the_disk_and_is_used_for_one_forward(traces, choice, tmp_path):
    loaded = HeadChoice.load(choice.save(tmp_path / "heads.json"))
    assert loaded.heads == choice.heads and loaded.fingerprint == choice.fingerprint
    np.testing.assert_array_equal(loaded.effects, choice.effects)
    found = attribute(traces[0], 0, "attn_attrib", heads_file=tmp_path / "heads.json")
    assert found.model_runs == 1 and not found.notes
    weights = traces[0].attention(layers=(0, 1, 2))[:, :, traces[0].target(0).predictor]
    expected = np.mean([weights[layer, head] for layer, head in choice.heads], axis=0)
    start = traces[0].target(0).start
    np.testing.assert_allclose(found.scores[:start], expected[:start], atol=1e-6)


def test_a_missing_file_is_made_from_the_probes(traces, choice, tmp_path):
    path = tmp_path / "made.json"
    probes = [(trace, 0) for trace in traces]
    first = attribute(traces[0], 0, "attn_attrib", heads_file=path, probes=probes, n_heads=3)
    assert first.parameters["heads"] == [list(pair) for pair in choice.heads]
    assert first.model_runs == choice.model_runs + 1
    again = attribute(traces[0], 0, "attn_attrib", heads_file=path)
    assert again.model_runs == 1 and np.array_equal(first.scores, again.scores)


def test_a_stale_or_foreign_or_damaged_file_is_refused(traces, choice, tmp_path):
    path = tmp_path / "heads.json"
    for change, what in (
        ({"fingerprint": "0" * 32}, "weights"),
        ({"model_id": "another/model"}, "model"),
        ({"revision": "older"}, "revision"),
    ):
        replace(choice, **change).save(path)
        with pytest.raises(OutputError, match=f"the {what} differs"):
            attribute(traces[0], 0, "attn_attrib", heads_file=path)
    path.write_text('{"kind": "head_choice", "format": 99}')
    with pytest.raises(OutputError, match="format 99"):
        attribute(traces[0], 0, "attn_attrib", heads_file=path)
    path.write_text('{"kind": "head_choice", "format": 1, "heads": [[0, 0]]}')
    with pytest.raises(OutputError, match="no complete choice"):
        attribute(traces[0], 0, "attn_attrib", heads_file=path)


def test_the_fingerprint_sees_a_changed_weight(traces):
    model = traces[0].model
    before = model.fingerprint()
    weight = model.model.get_decoder().layers[1].mlp.up_proj.weight
    kept = weight.detach()[0, 0].clone()
    try:
        with torch.no_grad():
            weight[0, 0] += 1
        assert model.fingerprint() != before
    finally:
        with torch.no_grad():
            weight[0, 0] = kept
    assert model.fingerprint() == before


def test_probes_are_drawn_by_seed(traces):
    one, two = (
        select_heads(traces, [0, 0, 0], n_probes=1, seed=seed, n_heads=1) for seed in (0, 0)
    )
    assert one.n_probes == 1 and np.array_equal(one.effects, two.effects)
    drawn = {
        select_heads(traces, [0, 0, 0], n_probes=1, seed=s, n_heads=1).effects.tobytes()
        for s in range(6)
    }
    assert len(drawn) > 1


def test_wrong_arguments_are_named(traces):
    trace, target = traces[0], traces[0].target(0)
    with pytest.raises(ValueError, match="not both"):
        attn_attrib(trace, target, heads=[(0, 0)], heads_file="x.json")
    with pytest.raises(ValueError, match="layer 7 does not exist"):
        attn_attrib(trace, target, heads=[(7, 0)])
    with pytest.raises(ValueError, match="head 9 does not exist"):
        attn_attrib(trace, target, heads=[(0, 9)])
    with pytest.raises(ValueError, match="heads is empty"):
        attn_attrib(trace, target, heads=[])
    with pytest.raises(ValueError, match="rank must be one of"):
        select_heads([trace], [0], rank="mass")
    with pytest.raises(ValueError, match="one target for each"):
        select_heads(traces, [0])
    with pytest.raises(TargetError, match="not in the answer"):
        select_heads([trace], ["zebra"])
    for made in ({}, {"heads": [(0, 0)]}):  # an unknown option is named where no choice is made too
        with pytest.raises(TypeError, match="no option n_probs"):
            attn_attrib(trace, target, n_probs=3, **made)


def test_choosing_heads_tells_how_far_it_is(traces):
    told = []
    select_heads(traces, [0] * len(traces), progress=lambda *call: told.append(call[1:]))
    assert told == [(k, len(traces)) for k in range(len(traces) + 1)]
