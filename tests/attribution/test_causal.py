"""An explanation as an attribution: members first, then the trees, in the documented order."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from causal_lvlm.explanation import Explanation, explain
from causal_lvlm.explanation.sets import ExplainingSet
from causal_lvlm.methods import attribute, from_explanation
from causal_lvlm.tokens import TokenLayout, Units, candidate_units, resolve_target
from tests.explanation.fakes import OTHER, SAID, FakeTrace, layout


def needs(*positions):
    """Says the target only while one of each of the given positions is visible."""
    return lambda visible: all(p in visible for p in positions)


def hand_made(**changes):
    """Sets, one tree and evidence made by hand: positions 1-4 image, 5 and 6 words.

    The tree: 3 next to the target, 4 and 5 below it. Pairs of nodes 0..3 (positions 3, 4, 5 and the
    target) in condensed order: 3-4 .3, 3-5 .9, 3-target .6, 4-5 none, 4-target, 5-target none.
    """
    made = explain(FakeTrace(needs(1)), "red", n_random=0)
    tree = SimpleNamespace(
        node=np.array([3, 0, 1, 2]), parent=np.array([-1, 0, 1, 1]), depth=np.array([0, 1, 2, 2])
    )
    graph = SimpleNamespace(
        head=0,
        tree=tree,
        members=((3,), (4,), (5,), (8,)),
        target_node=3,
        structure=SimpleNamespace(
            evidence=SimpleNamespace(weakest=np.array([-0.3, 0.9, 0.6, np.nan, np.nan, np.nan]))
        ),
    )
    sets = {
        "joint": ExplainingSet(
            "joint", "explained", (1, 6), ((1,), (6,)), True,
            probability_before=0.9, probability_after=0.1,
        ),
        "image": ExplainingSet(
            "image", "explained", (2,), ((2,),), True,
            probability_before=0.9, probability_after=0.2,
        ),
        "text": ExplainingSet("text", "max_runs"),
    }  # fmt: skip
    return replace(made, sets=sets, graphs=(graph,), **changes)


def test_every_term_is_the_documented_one():
    scores = from_explanation(hand_made(), layout()).scores
    expected = {
        1: 1 + 0.4 * (0.8 / 2),  # a member of the main set: the effect is shared by its two
        6: 1 + 0.4 * (0.8 / 2),
        2: 0.5 + 0.4 * 0.7,  # verified for the image alone
        3: 5e-4 * 1 + 4e-4 / 2 * 0.6,  # depth 1 of 2; edge 0.6
        4: 5e-4 * 0.5 + 4e-4 / 2 * 0.3,  # depth 2; the weakest edge on the way is 3-4
        5: 5e-4 * 0.5 + 4e-4 / 2 * 0.6,  # depth 2; the weakest edge on the way is 3-target
    }
    assert scores.tolist() == pytest.approx([expected.get(p, 0.0) for p in range(9)])


def test_attention_orders_what_is_in_no_tree_and_moves_nothing_else():
    made = hand_made()
    nothing = {name: ExplainingSet(name, "max_runs") for name in made.sets}
    made = replace(made, sets=nothing)  # only 3, 4 and 5 are in the tree
    attended = np.array([9.0, 0.1, 0.4, 0.0, 0.2, 0.3, 0.2, 0.0, 0.0])
    plain = from_explanation(made, layout()).scores
    scores = from_explanation(made, layout(), attended=attended).scores
    assert scores - plain == pytest.approx([0, 2.5e-6, 1e-5, 0, 5e-6, 7.5e-6, 5e-6, 0, 0])
    order = np.argsort(-scores, kind="stable")[:6].tolist()
    assert order == [3, 5, 4, 2, 6, 1]  # position 0 is the frame's, whatever it is given


@pytest.mark.parametrize("wrong", [np.ones(8), np.full(9, np.nan), -np.ones(9), np.ones((9, 9))])
def test_attention_of_another_shape_or_without_a_value_is_refused(wrong):
    with pytest.raises(ValueError, match="attended must be 9 finite numbers"):
        from_explanation(hand_made(), layout(), attended=wrong)


def test_no_smaller_term_can_outweigh_membership_or_radius():
    weak = ExplainingSet(
        "image", "explained", (2,), ((2,),), True, probability_before=0.9, probability_after=0.9
    )
    made = hand_made()
    made = replace(made, sets={**made.sets, "image": weak})
    made.graphs[0].structure.evidence.weakest[:] = 1.0
    made.graphs[0].structure.evidence.weakest[2] = 0.0  # the edge 3-target, on every way
    scores = from_explanation(made, layout()).scores
    order = np.argsort(-scores, kind="stable")[:6]
    assert order[:3].tolist() == [1, 6, 2] and order[3] == 3
    assert scores[3] > max(scores[4], scores[5])


def test_an_unverified_set_gives_no_membership_and_a_note_says_so():
    made = hand_made()
    nothing = {name: ExplainingSet(name, "max_runs") for name in made.sets}
    attribution = from_explanation(replace(made, sets=nothing), layout())
    assert attribution.scores.max() < 0.1 and attribution.scores[3] > 0
    assert any("no set was verified" in note for note in attribution.notes)


def test_a_unit_takes_the_best_of_its_positions_and_divides_its_score():
    units = Units(((1, 2), (3, 4), (5, 6)), ("image", "image", "prompt"))
    attribution = from_explanation(hand_made(), units)
    assert attribution.scores[1] == attribution.scores[2]
    sums = [attribution.scores[list(m)].sum() for m in units.members]
    assert sums == pytest.approx(
        [1 + 0.4 * 0.7, 5e-4 + 2e-4 * 0.6, 1 + 0.4 * 0.4 + 5e-4 * 0.5 + 2e-4 * 0.6]
    )
    assert attribution.ranking(units) == (0, 2, 1)


def test_the_effect_of_a_sufficient_set_is_the_probability_it_keeps():
    scores = from_explanation(hand_made(mode="sufficient"), layout()).scores
    assert scores[2] == pytest.approx(0.5 + 0.4 * 0.2)


def test_the_only_cause_comes_first_and_the_runs_are_those_of_the_trace():
    trace = FakeTrace(needs(3))
    units = candidate_units(trace.layout, resolve_target(trace.layout, "red"))
    attribution = attribute(trace, "red", "causal")
    assert attribution.ranking(units)[0] == 2  # position 3
    passes = attribution.model_runs - trace.rows
    assert passes >= 1  # attention, and whatever orders the fallback
    assert attribution.units_name == "patch+token"


class Passes(FakeTrace):
    """Counts what is asked of it besides masked rows."""

    forwards = backwards = 0

    def attention(self, layers=(-1,)):
        self.forwards += 1
        return super().attention(layers)

    def iter_attention(self):
        self.forwards += 1
        yield 0, super().attention()[0]

    def head_values(self, layer=-1):
        self.forwards += 1
        return super().head_values(layer)

    def backward(self, target, **options):
        self.forwards += 1
        self.backwards += 1
        before = self.forwards
        found = super().backward(target, **options)  # the fake reads its own attention
        self.forwards = before
        return found


@pytest.mark.parametrize(
    "options",
    [
        {}, {"source": "relevancy"}, {"source": "attention"}, {"source": "output"},
        {"source": "attention", "layer": "effective"}, {"source": "attention", "layer": "mean"},
        {"source": "attention", "layer": 0, "search": "graph"}, {"max_runs": 3},
    ],
)  # fmt: skip
def test_every_pass_is_counted(options):
    trace = Passes(needs(3))
    found = attribute(trace, "red", "causal", **options)
    assert found.model_runs == trace.rows + trace.forwards
    assert found.backward_passes == trace.backwards


def test_image_units_restrict_the_search_to_the_image():
    either = needs(3)
    attribution = attribute(FakeTrace(either), "red", "causal", units="patch")
    assert set(attribution.parameters["scopes"]) == {"image"}
    assert attribution.scores[5:].max() == 0


def test_options_of_explain_pass_through_and_wrong_ones_are_named():
    attribution = attribute(FakeTrace(needs(3)), "red", "causal", mode="sufficient", max_runs=50)
    assert attribution.parameters["explain"]["mode"] == "sufficient"
    with pytest.raises(TypeError, match="no_such_option"):
        attribute(FakeTrace(needs(3)), "red", "causal", no_such_option=1)
    with pytest.raises(ValueError, match="unknown weight 'size'"):
        attribute(FakeTrace(needs(3)), "red", "causal", weights={"size": 1.0})


def test_a_file_gives_the_same_scores_without_a_model(tmp_path, embedded_model):
    from causal_lvlm.tiny import sample_inputs

    sample = sample_inputs()[0]
    trace = embedded_model.run(sample.image_path, sample.prompt)
    made = explain(trace, 0, max_runs=120, n_random=0)
    loaded = Explanation.load(made.save(tmp_path / "explanation.json"))
    for units in ("patch+word", "block:2", None):
        fresh, stored = from_explanation(made, units), from_explanation(loaded, units)
        assert np.array_equal(fresh.scores, stored.scores)
        assert stored.model_runs == made.model_runs
    assert made.verified and fresh.scores[list(made.positions)].min() >= 1


class TwoTokens(FakeTrace):
    """Says two tokens; the first stays while position 2 is visible, the second while 6 is."""

    needed = (2, 6)

    def __init__(self):
        one = layout()
        shape = TokenLayout(
            (*one.tokens, "red"), np.append(one.token_ids, SAID),
            np.append(one.modality, "generated"), one.grids, np.append(one.words, 3), one.n_prompt,
        )  # fmt: skip
        super().__init__(lambda visible: True, shape)

    def evaluate(self, keep, target, **options):
        plain = super().evaluate(keep, target, **options)
        which = [self.needed[p - self.layout.n_prompt] for p in target.positions]
        stays = keep[:, which]
        return replace(
            plain, token_log_probs=np.log(np.where(stays, 0.9, 0.1)),
            argmax=np.where(stays, SAID, OTHER), margin=np.where(stays, 1.0, -1.0),
            runner_up=np.full(stays.shape, OTHER),
        )  # fmt: skip


def test_a_span_is_explained_token_by_token_and_averaged():
    trace = TwoTokens()
    found = attribute(trace, slice(0, 2), "causal", span="each")
    # Half of a member's score each: membership 1, effect 0.9 - 0.1.
    assert found.scores[[2, 6]] == pytest.approx([0.5 * (1 + 0.4 * 0.8)] * 2, abs=1e-3)
    assert np.delete(found.scores, [2, 6]).max() < 1e-3
    assert found.scores[found.target.start :].tolist() == [0.0, 0.0]
    assert found.model_runs > trace.rows > 0
    rows = [token["runs"] for token in found.parameters["tokens"]]
    assert sum(rows) == trace.rows and len(rows) == 2
    assert "mean over the 2 tokens" in found.notes[0]

    alone = [attribute(trace, k, "causal", candidates=[1, 2, 3, 4, 5, 6]).scores for k in range(2)]
    assert found.scores == pytest.approx(np.mean(alone, axis=0))


def test_a_span_as_a_whole_is_one_event_and_a_note_says_so():
    trace = TwoTokens()
    found = attribute(trace, slice(0, 2), "causal")
    # Either position changes one of the two tokens, so a single one is a smallest set.
    assert sorted(np.flatnonzero(found.scores > 0.9)) in ([2], [6])
    assert any("as one event" in note for note in found.notes)
    single = attribute(TwoTokens(), 1, "causal", span="each")
    assert not any("token" in note for note in single.notes)
    assert single.scores[6] > 1 and single.scores[2] < 0.1


def test_progress_of_a_span_says_which_token_it_is_at():
    told = []
    attribute(
        TwoTokens(), slice(0, 2), "causal", span="each", progress=lambda *what: told.append(what[0])
    )
    assert told[0].startswith("token 1 of 2: ") and told[-1].startswith("token 2 of 2: ")


def test_a_span_of_an_unknown_kind_or_with_a_rival_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match="span must be"):
        attribute(TwoTokens(), slice(0, 2), "causal", span="both")
    with pytest.raises(ValueError, match="leave out `against`"):
        attribute(TwoTokens(), slice(0, 2), "causal", span="each", against="blue")
