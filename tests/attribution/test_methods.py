"""Every method against its formula, written plainly with whole matrices."""

from __future__ import annotations

import numpy as np
import numpy.testing as npt
import pytest

from causal_lvlm.attribution import relevancy_matrix
from causal_lvlm.attribution.gradients import TABLE as GRADIENTS
from causal_lvlm.attribution.info import FAMILIES
from causal_lvlm.attribution.relevancy import TABLE as RELEVANCY
from causal_lvlm.attribution.weights import TABLE as WEIGHTS
from causal_lvlm.errors import AttentionError, TargetError, UnsupportedModelError
from causal_lvlm.methods import attribute, list_methods
from causal_lvlm.methods.registry import METHODS
from causal_lvlm.tokens import resolve_target

# The methods of three modules; the others have files of tests of their own.
TABLES = (WEIGHTS, RELEVANCY, GRADIENTS)
ALL = [info.name for table in TABLES for _, info in table]
NEED_CLASS_TOKEN = ["relevancy-vit", "relevancy-all", "relevancy-all_v2"]


def close(actual, expected, name=""):
    npt.assert_allclose(actual, expected, rtol=2e-5, atol=1e-7, err_msg=name)


def naive_relevancy(layers):
    """R of rules 5 and 6 in ascending order, element by element where that is readable."""
    size = layers[0].attention.shape[-1]
    matrix = np.eye(size)
    for layer in layers:
        product = layer.attention.astype(np.float64) * layer.gradient
        product[product < 0] = 0
        matrix = matrix + product.mean(axis=0) @ matrix
    return matrix


def naive_normalise(matrix):
    """Equations 8 and 9 without the identity that they add again."""
    rest = matrix - np.eye(len(matrix))
    return np.stack([row / row.sum() if row.sum() else row for row in rest])


def before(values, start):
    result = np.array(values, dtype=np.float64)
    result[start:] = 0
    return result


def image_only(values, n_positions=15):
    result = np.zeros(n_positions)
    result[2:8] = values
    return result


@pytest.mark.parametrize("row, shift", [("predictor", 1), ("own", 0)])
@pytest.mark.parametrize("target, positions", [("red", [13]), ("dark red", [12, 13])])
def test_raw_attention(trace, row, shift, target, positions):
    for layer in (-1, 0):
        weights = trace.layers[layer].attention.astype(np.float64)
        rows = np.stack([weights[:, p - shift] for p in positions], axis=1)  # (H, rows, T)
        expected = {"mean": rows.mean(0).mean(0), "max": rows.max(0).mean(0), 1: rows[1].mean(0)}
        for head, values in expected.items():
            result = attribute(trace, target, "attention", layer=layer, head=head, row=row)
            close(result.scores, before(values, positions[0]))
    result = attribute(trace, target, "attention", layer="mean", row=row)
    each = [layer.attention[:, [p - shift for p in positions]] for layer in trace.layers]
    close(result.scores, before(np.mean(each, axis=(0, 1, 2)), positions[0]))


@pytest.mark.parametrize("row, q", [("predictor", 12), ("own", 13)])
@pytest.mark.parametrize("residual", ["all", "start", False])
@pytest.mark.parametrize("start_layer", [0, 2, 3])
def test_rollout(trace, row, q, residual, start_layer):
    matrix = np.eye(15)
    for number in range(start_layer, 4):
        step = trace.layers[number].attention.astype(np.float64).mean(axis=0)
        if residual == "all" or (residual == "start" and number == start_layer):
            step = 0.5 * step + 0.5 * np.eye(15)  # rows of attention sum to one
        matrix = step @ matrix
    result = attribute(
        trace, "red", "rollout", row=row, add_residual=residual, start_layer=start_layer
    )
    close(result.scores, before(matrix[q], 13))


def test_rollout_of_several_tokens_is_a_mean_and_max_heads_are_normalised(trace):
    one, two = (attribute(trace, t, "rollout", row="predictor") for t in (0, 1))
    both = attribute(trace, slice(0, 2), "rollout")
    close(both.scores[:12], (one.scores[:12] + two.scores[:12]) / 2)
    matrix = np.eye(15)
    for layer in trace.layers:
        step = layer.attention.astype(np.float64).max(axis=0) + np.eye(15)
        matrix = (step / step.sum(axis=1, keepdims=True)) @ matrix
    result = attribute(trace, "red", "rollout", head="max")
    close(result.scores, before(matrix[12], 13))


@pytest.mark.parametrize("target, rows", [("red", [12]), ("dark red", [11, 12])])
def test_relevancy_variants(trace, target, rows):
    """Definitions of LVLM-Interpret with whole matrices; rows of target tokens are summed."""
    start = rows[0] + 1
    language = naive_relevancy(trace.layers)
    tower = naive_relevancy(trace.tower)
    image = np.arange(2, 8)
    excess = (language - np.eye(15))[rows]

    expected = {
        "relevancy": excess.sum(0),
        "relevancy-llama": naive_normalise(language)[rows].sum(0),
    }
    expected["relevancy-vit"] = image_only(naive_normalise(tower)[0, 1:])
    start_all = np.zeros((7, 7))
    start_all[0, 0] = 1
    start_all[1:, 1:] = language[np.ix_(image, image)]
    expected["relevancy-all"] = image_only(naive_normalise(tower @ start_all)[0, 1:])
    expected["relevancy-all_v2"] = np.zeros(15)
    for row in rows:
        start_v2 = np.eye(7)
        start_v2[0, 1:] += language[row, image]
        start_v2[1:, 0] += language[row, image]
        expected["relevancy-all_v2"] += image_only(naive_normalise(tower @ start_v2)[0, 1:])
    chained = excess.sum(0)
    chained[image] = [
        sum(excess.sum(0)[image[p]] * tower[1 + p, 1 + q] for p in range(6)) for q in range(6)
    ]
    expected["relevancy-chain"] = chained

    for name, values in expected.items():
        result = attribute(trace, target, name)
        close(result.scores, before(values, start), name)
    close(relevancy_matrix(trace, target), language)


def test_chain_splits_and_sums_where_the_tower_merges_tokens(merging_trace):
    trace = merging_trace
    row = (naive_relevancy(trace.layers) - np.eye(15))[12]
    tower = naive_relevancy(trace.tower)
    ends = trace.vision_positions
    image = np.zeros(15)
    for i in range(12):
        for j in range(12):
            image[ends[j]] += row[ends[i]] / 2 * tower[i, j]
    expected = before(row, 13)
    expected[2:8] = image[2:8]
    close(attribute(trace, "red", "chain").scores, expected)


@pytest.mark.parametrize("method", NEED_CLASS_TOKEN)
def test_a_tower_without_class_token_is_refused_by_name(merging_trace, method):
    with pytest.raises(UnsupportedModelError, match=rf"{method}.*0 tokens.*relevancy-chain"):
        attribute(merging_trace, "red", method)


def test_grad_attention(trace):
    rows = [11, 12]
    for layers, used in (("last", trace.layers[-1:]), ("all", trace.layers)):
        for signed in (False, True):
            expected = np.zeros(15)
            for layer in used:
                product = layer.attention.astype(np.float64) * layer.gradient
                product = product if signed else product * (product > 0)
                expected += product[:, rows].sum(axis=1).mean(axis=0)
            result = attribute(trace, "dark red", "grad_attention", layers=layers, signed=signed)
            close(result.scores, before(expected, 12))


@pytest.mark.parametrize("method", ALL)
def test_costs_are_what_the_trace_counted(trace, method):
    result = attribute(trace, "red", method)
    assert (result.model_runs, result.backward_passes) == (trace.forwards, trace.backwards)
    assert trace.forwards == 1 and trace.backwards <= 1
    assert result.seconds > 0
    assert (result.method, result.model_id, result.revision) == (method, "fake", "r1")
    assert result.target == resolve_target(trace.layout, "red")


@pytest.mark.parametrize("method", ALL)
def test_nothing_at_or_after_the_target(trace, method):
    for target in (0, 1, 2, slice(0, 3), slice(1, 3)):
        result = attribute(trace, target, method)
        assert result.scores.shape == (15,)
        assert not result.scores[result.target.start :].any()
        assert result.scores[2:8].any()


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(trace, method, value):
    for layer in trace.layers + trace.tower:
        layer.attention[1, :, 0] = value
        layer.gradient[:] = 1.0
    with pytest.raises(AttentionError, match="NaN or infinite"):
        attribute(trace, "red", method)


def test_matrix_refuses_gradients_that_are_not_finite(trace):
    trace.layers[1].gradient[0, 3, 2] = np.nan
    with pytest.raises(AttentionError, match="layer 1 of the language model"):
        relevancy_matrix(trace, "red")


def test_score_and_against_reach_the_backward_pass(trace):
    for name in ALL:
        if name in ("attention", "rollout"):
            continue
        result = attribute(trace, "red", name, score="log_prob", against=7)
        assert trace.asked[-1] == (result.target, "log_prob", 7)
        assert (result.parameters["score"], result.parameters["against"]) == ("log_prob", 7)
    relevancy_matrix(trace, "red", score="log_prob", against=7)
    assert trace.asked[-1][1:] == ("log_prob", 7)


def test_names_and_aliases(trace):
    infos = list_methods()
    names = [name for info in infos for name in (info.name, *info.aliases)]
    assert len(names) == len(set(names)) == len(METHODS)
    assert {"llama", "vit", "all", "all_v2", "chain"} <= set(names)
    assert set(ALL) | {"random"} <= set(names)
    for info in infos:
        assert info.summary and info.cost and info.family in FAMILIES
        if info.name in ALL:
            for name in (info.name, *info.aliases, info.name.upper(), info.name.replace("-", "_")):
                assert attribute(trace, "red", name).method == info.name
    assert attribute(trace, "red").method == "relevancy"


@pytest.mark.parametrize(
    "method, options, error, match",
    [
        ("lime", {}, ValueError, "unknown method 'lime'.*rollout"),
        ("rollout", {"steps": 3}, TypeError, "'rollout' has no option steps; it has add_res"),
        ("rollout", {"against": 3}, TypeError, "'rollout' has no option against; these.*relevanc"),
        ("rollout", {"units": "pixel"}, ValueError, "pixel.*superpixel"),
        ("random", {"seed": -1}, ValueError, "seed must be"),
        ("random", {"steps": 3}, TypeError, "none of its own"),
        ("attention", {"row": "last"}, ValueError, "row must be"),
        ("attention", {"head": 3}, ValueError, "3 heads"),
        ("attention", {"head": -4}, ValueError, "3 heads"),
        ("attention", {"head": "min"}, ValueError, "head must be"),
        ("attention", {"head": True}, ValueError, "head must be"),
        ("attention", {"layer": "last"}, ValueError, "layer must be"),
        ("rollout", {"start_layer": 4}, ValueError, "0..3"),
        ("rollout", {"start_layer": -1}, ValueError, "0..3"),
        ("rollout", {"add_residual": "none"}, ValueError, "add_residual"),
        ("grad_attention", {"layers": "first"}, ValueError, "layers must be"),
    ],
)
def test_bad_options(trace, method, options, error, match):
    with pytest.raises(error, match=match):
        attribute(trace, "red", method, **options)


def test_target_that_is_not_in_the_answer(trace):
    with pytest.raises(TargetError, match="green"):
        attribute(trace, "green")
