"""ReAGent against a twin that takes one step at a time, and against what theory expects."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import numpy.testing as npt
import pytest

from causal_lvlm.attribution.reagent import reagent
from causal_lvlm.tokens import candidate_units, resolve_target
from tests.attribution.set_fakes import make_layout

N_OTHERS = 4  # share what is left of the probability: the target is among the first 3 from 1/5


class EmbeddingTrace:
    """p = offset + weights . (last column of the embeddings); the first column names the token.

    Position p holds (p, 1); token i of the vocabulary is embedded as (1000 + i, 0).
    """

    def __init__(self, weights, offset, layout=None):
        self.layout = layout or make_layout()
        self.weights, self.offset = np.asarray(weights), offset
        self.rows, self.seen = 0, []

    def target(self):
        return resolve_target(self.layout, 0)

    def units(self):
        return candidate_units(self.layout, self.target())

    def embeddings(self):
        n = len(self.layout)
        return np.stack([np.arange(n), np.ones(n)], axis=1).astype(np.float32)

    def token_embeddings(self, ids):
        ids = np.asarray(ids)
        return np.stack([1000.0 + ids, np.zeros(len(ids))], axis=1).astype(np.float32)

    def chance(self, row):
        return float(self.offset + self.weights @ row[:, 1])

    def evaluate_embeddings(self, rows, target, *, n_rows, distribution=False, batch_size=None):
        chances = []
        for index in range(n_rows):
            row = rows(index)
            self.seen.append(row)
            self.rows += 1
            chances.append(self.chance(row))
        p = np.array(chances)
        spread = np.zeros((n_rows, 1, len(self.layout) + N_OTHERS))
        spread[:, 0, -N_OTHERS:] = (1 - p[:, None]) / N_OTHERS
        spread[:, 0, target.token_ids[0]] = p
        return SimpleNamespace(
            token_log_probs=np.log(p)[:, None],
            argmax=np.where(p[:, None] > (1 - p[:, None]) / N_OTHERS, target.token_ids[0], -1),
            distributions=spread if distribution else None,
        )


def text_trace(weights, offset, n_words=6):
    layout = make_layout(rows=0, cols=0, words=n_words)
    full = np.zeros(len(layout))
    full[1 : 1 + n_words] = weights
    return EmbeddingTrace(full, offset, layout)


def unit_sums(scores, units):
    return np.array([scores.values[list(m)].sum() for m in units.members])


def twin(trace, vocabulary, *, run, seed, ratio, keep, top_k, min_steps, max_steps):
    """One run, one step and one row at a time."""
    rng = np.random.default_rng([seed, run])
    units, layout = trace.units(), trace.layout
    places = [p for members in units.members for p in members]
    image = [p for p in places if layout.modality[p] == "image"]

    def changed(which, numbers):
        row = trace.embeddings()
        for unit in which:
            for p in units.members[unit]:
                number = numbers[places.index(p)]
                if p in image:
                    others = [q for q in layout.positions("image") if q != p]
                    row[p] = trace.embeddings()[others[int(number * len(others))]]
                else:
                    row[p] = trace.token_embeddings([vocabulary[int(number * len(vocabulary))]])[0]
        return row

    level = rng.random(len(units))
    full = trace.chance(trace.embeddings())
    for step in range(1, max_steps + 1):
        replaced = np.flatnonzero(rng.random(len(units)) < ratio)
        probe, rest = rng.random(len(places)), rng.random(len(places))
        delta = full - trace.chance(changed(replaced, probe))
        for unit in range(len(units)):
            d = delta if unit in replaced else -delta
            half = 0.5 * d + 0.5
            level[unit] += np.log(half / (1 - half))
        order = np.argsort(-level, kind="stable")
        p = trace.chance(changed(order[keep:], rest))
        better = N_OTHERS if (1 - p) / N_OTHERS > p else 0
        if better < top_k and step >= min_steps:
            return np.exp(level) / np.exp(level).sum(), step, True
    return np.exp(level) / np.exp(level).sum(), max_steps, False


def rugged(seed):
    layout = make_layout(rows=2, cols=3, words=4)
    trace = EmbeddingTrace(np.zeros(len(layout)), 0.0, layout)
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=len(layout))
    trace.chance = lambda row: float(
        0.45 / (1 + np.exp(-mix @ (row[:, 1] + np.sin(row[:, 0]) - 1)))
    )
    return trace


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("steps_per_batch", [1, 4, 50])
def test_runs_equal_a_twin_that_takes_one_step_at_a_time(seed, steps_per_batch):
    trace, vocabulary = rugged(seed), [3, 9, 11]
    rule = {"ratio": 0.3, "top_k": 3, "min_steps": 1 + 2 * seed, "max_steps": 23}
    found = reagent(
        trace,
        trace.target(),
        units=trace.units(),
        n_runs=4,
        rationale_size=2,
        steps_per_batch=steps_per_batch,
        vocabulary=vocabulary,
        seed=seed,
        **rule,
    )
    each = [twin(rugged(seed), vocabulary, run=r, seed=seed, keep=2, **rule) for r in range(4)]
    assert found.parameters["steps"] == [steps for _, steps, _ in each]
    ended = [scores for scores, _, over in each if over] or [scores for scores, _, _ in each]
    npt.assert_allclose(unit_sums(found, trace.units()), np.mean(ended, axis=0), rtol=1e-6)
    assert found.model_runs == trace.rows
    if len(ended) > 1:
        error = np.std(ended, axis=0, ddof=1) / np.sqrt(len(ended))
        npt.assert_allclose(
            [found.standard_error[list(m)].sum() for m in trace.units().members], error, rtol=1e-6
        )


def test_the_drift_of_an_additive_model_is_four_rho_one_minus_rho_times_the_weight():
    """E[l_u - l_v] = 4 rho (1 - rho) (w_u - w_v) a step, for weights small against 1."""
    weights, ratio, steps = np.array([0.0, 0.01, 0.02, 0.03, 0.05, 0.02]), 0.3, 2000
    trace = text_trace(weights, 0.01)  # at most 0.14: never among the first
    found = reagent(
        trace,
        trace.target(),
        units=trace.units(),
        n_runs=1,
        ratio=ratio,
        max_steps=steps,
        steps_per_batch=100,
        vocabulary=[1, 2],
    )
    drift = np.log(unit_sums(found, trace.units())) / steps
    expected = 4 * ratio * (1 - ratio) * weights
    npt.assert_allclose(drift - drift.mean(), expected - expected.mean(), atol=3e-3)
    assert found.notes[0].startswith("0 of 1 runs ended")


def test_the_word_that_carries_the_answer_scores_highest():
    trace = text_trace([0.02, 0.5, 0.02, 0.0, 0.02, 0.0], 0.05)
    found = reagent(
        trace, trace.target(), units=trace.units(), rationale_size=1, min_steps=10, vocabulary=[4]
    )
    assert int(np.argmax(unit_sums(found, trace.units()))) == 1
    assert unit_sums(found, trace.units()).sum() == pytest.approx(1.0)
    assert found.notes[0].startswith("5 of 5 runs ended")
    assert min(found.parameters["steps"]) >= 10


def test_replacements_come_from_the_vocabulary_and_from_the_same_image():
    layout = make_layout(rows=2, cols=3, words=4)
    trace = EmbeddingTrace(np.full(len(layout), 0.05), 0.0, layout)
    units = trace.units()
    reagent(trace, trace.target(), units=units, vocabulary=[5, 6], min_steps=60)
    names = np.array([row[:, 0] for row in trace.seen])
    image, words = layout.positions("image"), layout.positions("prompt")
    for position in range(len(layout)):
        here = set(names[:, position].astype(int))
        if position in image:
            assert here == set(image.tolist())
        elif position in words:
            assert here == {position, 1005, 1006}
        else:
            assert here == {position}


def test_only_the_first_choice_counts_with_top_1():
    trace = text_trace(np.full(6, 0.02), 0.03)  # always behind four others
    options = {"units": trace.units(), "vocabulary": [4], "max_steps": 8, "n_runs": 2}
    assert reagent(trace, trace.target(), top_k=1, **options).notes[0].startswith("0 of 2")
    assert reagent(trace, trace.target(), top_k=4, **options).notes[0].startswith("0 of 2")
    assert reagent(trace, trace.target(), top_k=5, **options).notes[0].startswith("2 of 2")


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.0},
        {"n_runs": 0},
        {"top_k": 0},
        {"min_steps": 9, "max_steps": 8},
        {"vocabulary": []},
    ],
)
def test_impossible_options_are_refused(options):
    trace = text_trace(np.full(6, 0.02), 0.1)
    with pytest.raises(ValueError, match=next(iter(options))):
        reagent(trace, trace.target(), units=trace.units(), **{"vocabulary": [1], **options})


def test_on_the_tiny_model_the_seed_decides_and_special_tokens_are_never_drawn(embedded_model):
    from causal_lvlm.tiny import sample_inputs

    model = embedded_model
    sample = next(s for s in sample_inputs() if s.kind == "colour")
    trace = model.run(sample.image_path, sample.prompt)
    target = trace.target(0)
    units = candidate_units(trace.layout, target)
    first, again, other = (reagent(trace, target, units=units, seed=s) for s in (1, 1, 2))
    npt.assert_array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)
    assert unit_sums(first, units).sum() == pytest.approx(1.0)
    texts = {trace.token_text(i).strip() for i in model.ordinary_tokens()}
    assert {"red", "circle"} <= texts
    assert not texts & {"<pad>", "<s>", "</s>", "<unk>", "<image>"}


@pytest.mark.parametrize("n_words", [2, 3, 5, 6])
def test_few_units_are_not_all_kept_so_that_runs_do_not_end_by_their_random_start(n_words):
    weights = np.zeros(n_words)
    weights[-1] = 0.6  # the last word alone carries the answer
    trace = text_trace(weights, 0.05, n_words)
    units = trace.units()
    found = reagent(
        trace, trace.target(), units=units, n_runs=20, vocabulary=range(5), min_steps=20, seed=1
    )
    assert found.parameters["kept"] == min(5, len(units) // 2)
    assert np.argmax(unit_sums(found, units)) == len(units) - 1
    # Kept wholly, nothing would be replaced: the first try always ends a run.
    once = reagent(trace, trace.target(), units=units, n_runs=20, vocabulary=range(5), seed=1)
    assert max(once.parameters["steps"]) > 1


def test_one_unit_alone_gets_everything_and_costs_one_run():
    trace = text_trace([0.5], 0.1, 1)
    found = reagent(trace, trace.target(), units=trace.units(), vocabulary=range(5))
    assert unit_sums(found, trace.units()).tolist() == [1.0] and found.model_runs == 1


def test_a_vocabulary_is_whole_numbers_and_recorded():
    trace = text_trace([0.1] * 6, 0.1)
    units = trace.units()
    with pytest.raises(ValueError, match="vocabulary must be a whole number"):
        reagent(trace, trace.target(), units=units, vocabulary=[1.5])  # type: ignore[list-item]
    found = reagent(trace, trace.target(), units=units, vocabulary=(3, 4), max_steps=2)
    assert found.parameters["vocabulary"] == [3, 4]
