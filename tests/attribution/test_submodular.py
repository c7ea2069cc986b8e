"""SMDL, LiMA and EAGLE against naive twins, exact optima, and the published counts of runs."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.testing as npt
import pytest

from causal_lvlm.asker import Asker
from causal_lvlm.attribution.eagle import eagle, eagle_fast
from causal_lvlm.attribution.objective import SetObjective, VisibleSets, path_saliency, strict
from causal_lvlm.attribution.result import Scores
from causal_lvlm.attribution.submodular import lima, smdl
from causal_lvlm.tokens import Units, candidate_units
from tests.attribution.set_fakes import SetTrace, additive, make_layout

METHODS = [smdl, lima, eagle, eagle_fast]


def unit_sums(scores: Scores, units):
    return np.array([scores.values[list(m)].sum() for m in units.members])


def rough(layout, seed):
    """A chance between 0 and 1 with interactions, unlike for every set."""
    rng = np.random.default_rng(seed)
    single, pair = rng.normal(size=len(layout)), rng.normal(size=(len(layout),) * 2) / 2

    def chance(visible):
        v = visible.astype(float)
        return 1 / (1 + np.exp(-(single @ v + v @ pair @ v - 0.5 * len(layout) ** 0.5)))

    return chance


class Naive:
    """The four scores of arXiv:2402.09164 for any set, one by one, counting questions."""

    def __init__(self, trace, weights, score="prob"):
        self.trace, self.units, self.weights, self.score = trace, trace.units(), weights, score
        self.n = len(self.units)
        features = [trace.embeddings()[list(m)].astype(float).mean(0) for m in self.units.members]
        self.distance = [
            [
                np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)) / np.pi
                for b in features
            ]
            for a in features
        ]
        self.asked = 0
        self.different = set()

    def p(self, subset):
        self.asked += 1
        self.different.add(frozenset(subset))
        visible = np.ones(len(self.trace.layout), dtype=bool)
        for unit in set(range(self.n)) - set(subset):
            visible[list(self.units.members[unit])] = False
        tokens = np.atleast_1d(self.trace.chance(visible))
        return float(np.prod(tokens) if self.score == "prob" else np.mean(tokens))

    def rest(self, subset):
        return set(range(self.n)) - set(subset)

    def effectiveness(self, subset):
        if len(subset) < 2:
            return 0.0
        return sum(min(self.distance[i][j] for j in subset if j != i) for i in subset)

    def model(self, subset):
        _, _, cons, colla = self.weights
        return cons * self.p(subset) + colla * (1 - self.p(self.rest(subset)))

    def value(self, subset):
        return self.model(subset) + self.weights[1] * self.effectiveness(subset)


def naive_greedy(f):
    order = []
    while len(order) < f.n:
        order.append(
            max(sorted(f.rest(order)), key=lambda u: f.value([*order, u]))  # first of equals
        )
    return order


def naive_bidirectional(f, pending):
    best, worst = [], []
    while True:
        left = sorted(f.rest(best + worst))
        if not left:
            break
        if len(left) == 1:
            best += left
            break
        model = {u: f.model([*best, u]) for u in left}
        eff = f.weights[1]
        up = {u: model[u] + eff * f.effectiveness([*best, u]) for u in left}
        down = {u: model[u] + eff * f.effectiveness([*worst, u]) for u in left}
        chosen = max(left, key=up.get)
        if len(left) > pending:
            lowest = [u for u in sorted(left, key=down.get)[:pending] if u != chosen]
            if lowest:
                so_far = list(worst)
                worst.append(min(lowest, key=lambda u: f.value([*so_far, u])))
        best.append(chosen)
    return best + worst[::-1]


def naive_scoped(f, scope, pending, step):
    ranked, best, worst, turn = list(range(f.n)), [], [], 0
    while ranked:
        if len(ranked) == 1:
            best += ranked
            break
        if turn % step == 0:
            values = {u: f.value([*best, u]) for u in ranked}
            ranked = sorted(ranked, key=lambda u: -values[u])
            chosen = ranked[0]
        else:
            values = {u: f.value([*best, u]) for u in ranked[:scope]}
            chosen = max(ranked[:scope], key=values.get)
        best.append(chosen)
        ranked.remove(chosen)
        if not worst:
            worst.append(ranked.pop())
        elif len(ranked) > pending:
            last = ranked[-pending:]
            values = {u: f.model(f.rest([*worst, u])) for u in last}
            gone = max(last, key=values.get)
            worst.append(gone)
            ranked.remove(gone)
        turn += 1
    return best + worst[::-1]


def run(method, trace, **options):
    return method(trace, trace.target(), units=trace.units(), **options)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("answer", [1, 3])
@pytest.mark.parametrize("name", ["smdl", "lima", "lima-small", "eagle", "fast", "fast-small"])
def test_orders_and_counts_are_those_of_a_naive_twin(name, seed, answer):
    layout = make_layout(rows=4, cols=4, words=3, answer=answer)
    plain = rough(layout, seed)
    trace = SetTrace(lambda v: [plain(v)] + [0.5 + 0.02 * v.sum()] * (answer - 1), layout)
    if name == "smdl":
        weights = (0, 0.5, 1, 2)
        naive = Naive(trace, weights)
        expected, found = naive_greedy(naive), run(smdl, trace, weights=weights)
    elif name.startswith("lima"):
        weights, pending = (0, 0.5, 3, 1), 8 if name == "lima" else 2
        naive = Naive(trace, weights)
        expected = naive_bidirectional(naive, pending)
        found = run(lima, trace, weights=weights, pending=pending)
    elif name == "eagle":
        naive = Naive(trace, (0, 0, 1, 0.5), "mean")
        expected, found = naive_greedy(naive), run(eagle, trace, weights=(1, 0.5))
    else:
        sizes = (10, 8, 5) if name == "fast" else (3, 2, 4)
        naive = Naive(trace, (0, 0, 1, 1), "mean")
        expected = naive_scoped(naive, *sizes)
        found = run(
            eagle_fast, trace, search_scope=sizes[0], pending=sizes[1], update_step=sizes[2]
        )
    assert found.parameters["order"] == expected
    # What the loops asked, how much of it was different, and the two ends for the saliency.
    counted = f"asked about {naive.asked} sets, {len(naive.different)} of them different"
    assert counted in found.notes[0]
    assert found.model_runs == trace.rows == len(naive.different | {frozenset(), ends(naive.n)})


def ends(n):
    return frozenset(range(n))


@pytest.mark.parametrize("n", [3, 5, 9, 12])
def test_plain_greedy_asks_about_m_times_m_plus_one_sets(n):
    layout = make_layout(rows=1, cols=n, words=0)
    for method in (smdl, eagle):
        trace = SetTrace(rough(layout, 1), layout)
        found = run(method, trace)
        assert f"asked about {n * (n + 1)} sets" in found.notes[0]
        # The last but one step repeats the four sets of the first that hold or lack one of two.
        assert found.model_runs == trace.rows == n * (n + 1) - 4


@pytest.mark.parametrize("method, asked", [(smdl, 4160), (lima, 2590), (eagle_fast, 1410)])
def test_64_units_cost_what_the_released_programs_ask_for(method, asked):
    """Where the best unit is never among the n_p lowest, which LiMA would leave out of them."""
    layout = make_layout(rows=8, cols=8, words=0)
    weights = np.random.default_rng(2).random(len(layout)) / (2 * len(layout))
    options = {} if method is eagle_fast else {"weights": (0, 0, 20, 1)}
    found = run(method, SetTrace(additive(weights, 0.1), layout), **options)
    assert f"asked about {asked} sets" in found.notes[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_an_additive_model_is_that_of_its_weights(method, seed):
    layout = make_layout(rows=5, cols=5, words=4)
    weights = np.random.default_rng(seed).permutation(len(layout)) + 1.0
    weights /= 2 * weights.sum()
    trace = SetTrace(additive(weights, 0.1), layout)
    options = {"weights": (0, 0, 1, 1)} if method in (smdl, lima) else {}
    found = run(method, trace, **options)
    units = trace.units()
    sums = [weights[list(m)].sum() for m in units.members]
    assert found.parameters["order"] == np.argsort(sums)[::-1].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_the_first_k_units_of_a_modular_model_are_the_best_k_of_all_subsets(method):
    layout = make_layout(rows=2, cols=4, words=0)
    weights = np.random.default_rng(7).random(len(layout)) / (2 * len(layout))
    trace = SetTrace(additive(weights, 0.1), layout)
    options = {"weights": (0, 0, 1, 1)} if method in (smdl, lima) else {}
    order = run(method, trace, **options).parameters["order"]
    naive = Naive(trace, (0, 0, 1, 1))
    for k in range(1, 5):
        best = max(itertools.combinations(range(naive.n), k), key=naive.value)
        assert set(best) == set(order[:k])


@pytest.mark.parametrize("method", METHODS)
def test_scores_fall_strictly_along_the_order_and_hold_the_published_saliency(method):
    layout = make_layout(rows=4, cols=4, words=3)
    for chance in (rough(layout, 5), lambda visible: 0.5):  # the second never moves
        trace = SetTrace(chance, layout)
        units = trace.units(pool=2)
        found = method(trace, trace.target(), units=units)
        order = found.parameters["order"]
        sums = unit_sums(found, units)
        assert sorted(order) == list(range(len(units)))
        assert (np.diff(sums[order]) < -1e-6).all() and sums.min() > 0
        published = np.array(found.parameters["published_saliency"])
        npt.assert_allclose(sums, published, atol=1.1e-3)
        naive = Naive(trace, (0, 0, 1, 1), "mean")
        naive.units, naive.n = units, len(units)
        path = [naive.model(order[:k]) for k in range(len(units) + 1)]
        npt.assert_allclose(found.parameters["path"], path, atol=1e-12)
        value, expected = 0.0, []
        for before, after in itertools.pairwise(path):
            value -= abs(after - before)
            expected.append(value)
        span = max(expected) - min(expected)
        expected = [(v - min(expected)) / span if span else 0.0 for v in expected]
        npt.assert_allclose(published[order], expected, atol=1e-12)


def test_effectiveness_of_every_subset_is_the_sum_of_distances_to_the_nearest():
    layout = make_layout(rows=2, cols=3, words=1)
    trace = SetTrace(rough(layout, 0), layout)
    naive = Naive(trace, (0, 1.0, 0, 0))
    sets = VisibleSets(Asker(trace, trace.target(), trace.units()))
    objective = SetObjective(sets, (0, 1.0, 0, 0), np.array(naive.distance))
    for size in range(5):
        for base in itertools.combinations(range(naive.n), size):
            others = sorted(naive.rest(base))
            expected = [naive.effectiveness([*base, u]) for u in others]
            npt.assert_allclose(objective.diversity(list(base), others), expected, atol=1e-12)
    assert trace.rows == 0


def test_diversity_makes_lima_and_smdl_avoid_a_unit_like_the_first():
    layout = make_layout(rows=1, cols=4, words=0)
    weights = np.zeros(len(layout))
    weights[1:5] = [0.3, 0.29, 0.1, 0.05]
    features = np.ones((len(layout), 4))
    features[3] = [1, -1, 1, -1]
    trace = SetTrace(additive(weights, 0.1), layout, features=features)
    assert run(smdl, trace, weights=(0, 0, 1, 1)).parameters["order"] == [0, 1, 2, 3]
    assert run(smdl, trace, weights=(0, 1, 1, 1)).parameters["order"] == [0, 2, 1, 3]
    assert run(lima, trace, weights=(0, 1, 1, 1)).parameters["order"][:2] == [0, 2]
    hidden = run(smdl, trace, weights=(0, 1, 1, 1), features="hidden")
    assert hidden.model_runs == 1 + run(smdl, trace, weights=(0, 1, 1, 1)).model_runs


@pytest.mark.parametrize("method", METHODS)
def test_a_contrast_asks_why_this_and_not_that(method):
    layout = make_layout(rows=2, cols=3, words=1)
    trace = SetTrace(rough(layout, 3), layout)
    found = run(method, trace, against=4)
    visible = np.ones(len(layout), dtype=bool)
    p = trace.chance(visible)
    visible[[q for m in trace.units().members for q in m]] = False
    empty = trace.chance(visible)
    share = [x / (x + (1 - x) / 2) for x in (p, empty)]
    assert found.parameters["path"][-1] == pytest.approx(share[0] + 1 - share[1])
    assert all(options["against"] == 4 for options in trace.options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_units_or_none_are_no_special_case(method, n):
    layout = make_layout(rows=1, cols=4, words=0)
    trace = SetTrace(rough(layout, 0), layout)
    units = Units(tuple((1 + i,) for i in range(n)), ("image",) * n)
    seen = []
    found = method(trace, trace.target(), units=units, progress=lambda *s: seen.append(s))
    assert sorted(found.parameters["order"]) == list(range(n))
    assert np.count_nonzero(found.values) == n
    assert seen[-1][1:] == (n, n)
    assert found.model_runs == trace.rows


def test_no_set_is_evaluated_twice():
    layout = make_layout(rows=4, cols=4, words=3)
    for method in METHODS:
        trace = SetTrace(rough(layout, 8), layout)
        assert run(method, trace).model_runs == len(trace.asked) == len(set(trace.asked))


def test_strict_keeps_every_order_that_the_saliency_allows():
    rng = np.random.default_rng(0)
    for _ in range(50):
        order = rng.permutation(20).tolist()
        path = np.cumsum(rng.integers(-1, 2, size=21)) / 20.0
        scores = path_saliency(order, path)
        assert (np.diff(strict(order, scores)[order]) < 0).all()
        assert np.abs(strict(order, scores) - scores).max() < 1.1e-3


@pytest.mark.parametrize(
    "method, options, message",
    [
        (smdl, {"weights": (1, 2, 3)}, "4 numbers"),
        (lima, {"weights": (0, 0, 0, 0)}, "4 numbers"),
        (lima, {"weights": (1, 0, 1, 1)}, "masking='neutral'"),
        (smdl, {"features": "pixels"}, "features"),
        (lima, {"pending": 0}, "pending"),
        (eagle, {"weights": (1, -1)}, "2 numbers"),
        (eagle_fast, {"search_scope": 0}, "search_scope"),
        (eagle_fast, {"update_step": 1.5}, "update_step"),
    ],
)
def test_impossible_options_are_refused(method, options, message):
    trace = SetTrace(rough(make_layout(), 0))
    with pytest.raises(ValueError, match=message):
        run(method, trace, **options)


@pytest.fixture(scope="module")
def tiny(embedded_model):
    from causal_lvlm.tiny import sample_inputs

    sample = next(s for s in sample_inputs() if s.kind == "colour")
    trace = embedded_model.run(sample.image_path, sample.prompt)
    target = trace.target(0)
    return trace, target, candidate_units(trace.layout, target, pool=2)


@pytest.mark.parametrize("method", METHODS)
def test_on_the_tiny_model_an_order_found_by_search_beats_its_reverse_and_chance(tiny, method):
    trace, target, units = tiny
    found = method(trace, target, units=units)
    order = found.parameters["order"]
    sets = VisibleSets(Asker(trace, target, units))
    objective = SetObjective(sets, (0, 0, 1, 1))
    rng = np.random.default_rng(0)
    others = [order[::-1]] + [rng.permutation(len(units)).tolist() for _ in range(5)]
    assert objective.path(order).mean() > max(objective.path(o).mean() for o in others) + 0.2


def test_confidence_is_one_minus_the_share_of_the_largest_entropy(tiny):
    trace, target, units = tiny
    few = Units(units.members[-4:], units.modality[-4:])
    found = smdl(trace, target, units=few, weights=(1, 0, 0, 0), masking="neutral")
    own, mean = trace.embeddings(), trace.baseline_embeddings("mean")

    def confidence(subset):
        row = own.copy()
        for unit in set(range(4)) - set(subset):
            row[list(few.members[unit])] = mean[list(few.members[unit])]
        p = trace.evaluate_embeddings(row[None], target, distribution=True).distributions[0, 0]
        p = p[p > 0].astype(float)
        return 1 + (p * np.log(p)).sum() / np.log(trace.model.text_config.vocab_size)

    order: list[int] = []
    for _ in range(4):
        left = [u for u in range(4) if u not in order]
        order.append(max(left, key=lambda u: confidence([*order, u])))
    assert found.parameters["order"] == order
    # 4 + 3 + 2 + 1 sets for the entropy beside those of the other terms.
    assert found.model_runs == 4 * 5 - 4 + 10


def test_neutral_masking_and_mean_embeddings_are_the_same_question(tiny):
    """So that the confidence term and the others speak of the same sets."""
    trace, target, units = tiny
    keep = units.keep_without([[0, 3], [5], range(len(units))], len(trace.layout))
    own, mean = trace.embeddings(), trace.baseline_embeddings("mean")
    rows = np.where(keep[:, :, None], own, mean)
    npt.assert_allclose(
        trace.evaluate(keep, target, masking="neutral").log_prob,
        trace.evaluate_embeddings(rows, target).log_prob,
        atol=1e-3,
    )
