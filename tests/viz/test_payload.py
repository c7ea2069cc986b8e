"""What the script of the page is given is what the results hold, and no more than can be shown."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from causal_lvlm.explanation.stability import TargetStability
from causal_lvlm.explanation.tried import TriedSet
from causal_lvlm.explanation.union import union_graph
from causal_lvlm.metrics.result import MetricTable, MetricValue
from causal_lvlm.structure import EdgeStability
from causal_lvlm.tokens import resolve_target
from causal_lvlm.viz.payload import case_payload, colour_tables, json_for_html
from causal_lvlm.viz.payload_graph import graph_payload
from causal_lvlm.viz.payload_graphs import graphs_payload
from causal_lvlm.viz.pictures import Picture
from causal_lvlm.viz.sections import heat_html
from tests.viz.fakes import (
    explaining_set,
    fake_attribution,
    fake_explanation,
    fake_view,
    large_view,
    learned_graph,
    random_graph,
    several_view,
    sparse_graph,
)

VIEW = fake_view()
TARGET = resolve_target(VIEW.layout, "red")
NUMBERS = {13: 1}


def test_every_edge_and_separating_set_is_that_of_the_structure():
    graph = learned_graph(VIEW.layout, TARGET)
    structure, marks = graph.structure, graph.structure.pag.marks
    data = graph_payload(graph, NUMBERS, cap=100)
    positions = [tuple(node) for node, _ in data["nodes"]]
    nodes = [graph.members.index(unit) for unit in positions]
    assert len(data["edges"]) > 5 and len(data["apart"]) > 5
    seen = set()
    for i, j, mark_i, mark_j, share, weakest, p, tests in data["edges"]:
        a, b = nodes[i], nodes[j]
        seen.add((a, b))
        assert (mark_i, mark_j) == (marks[b, a], marks[a, b]) and share is None
        assert weakest == pytest.approx(structure.weakest(a, b), rel=1e-3)
        assert p == pytest.approx(structure.p_value(a, b), rel=1e-2, abs=1e-300)
        assert tests == structure.tests_of(a, b)
    for i, j, between, weakest, *_ in data["apart"]:
        a, b = nodes[i], nodes[j]
        seen.add((a, b))
        assert [graph.members[k][0] for k in structure.sepset(a, b)] == between
        assert weakest == pytest.approx(structure.weakest(a, b), rel=1e-3)
    assert seen == set(itertools.combinations(nodes, 2))
    assert data["level"] == pytest.approx(structure.min_abs_partial, rel=1e-3)


def test_reach_is_the_tree_at_every_radius():
    graph = random_graph(VIEW.layout, TARGET, density=0.05)
    data = graph_payload(graph, NUMBERS, cap=10)
    assert len(data["nodes"]) == 10
    for radius in (1, 2, 3):
        expected = {graph.members[n] for n in graph.tree.within(radius)}
        assert {tuple(m) for m, depth in data["reach"] if depth <= radius} == expected
    at = data["target"]
    assert tuple(data["nodes"][at][0]) == graph.members[graph.target_node]


def test_tree_of_the_payload_is_a_part_of_the_tree():
    graph = random_graph(VIEW.layout, TARGET, density=0.05)
    data = graph_payload(graph, NUMBERS, cap=30)
    tree = data["tree"]
    ways = set()
    for at in range(len(graph.tree)):
        ways.add(tuple(graph.members[n] for n in graph.tree.path(at)))
    for at, (node, parent, depth) in enumerate(zip(*tree.values(), strict=True)):
        way, above = [node], parent
        while above >= 0:
            way.append(tree["node"][above])
            above = tree["parent"][above]
        assert parent < at and len(way) == depth + 1
        assert tuple(tuple(data["nodes"][n][0]) for n in way[::-1]) in ways


def test_union_names_the_heads_of_every_edge():
    heads = tuple(
        replace(random_graph(VIEW.layout, TARGET, seed=k), head=k, candidate_mass=0.5)
        for k in range(3)
    )
    explanation = fake_explanation(VIEW, graphs=heads)
    union, *rest = graphs_payload(explanation, union_graph(heads), NUMBERS)
    assert union["united"] and [g["head"] for g in rest] == [0, 1, 2]
    assert len(union["voters"]) == len(union["edges"]) > 0
    for (i, j, _, _, share, *_), voters in zip(union["edges"], union["voters"], strict=True):
        ends = [tuple(union["nodes"][k][0]) for k in (i, j)]
        having = []
        for k, graph in enumerate(heads):
            a, b = (graph.members.index(end) for end in ends)
            if graph.structure.pag.marks[a, b]:
                having.append(k)
        assert voters == having and share == pytest.approx(len(having) / 3, rel=1e-2)


def test_stability_becomes_the_share_of_an_edge():
    graph = random_graph(VIEW.layout, TARGET)
    n = len(graph.members)
    share = np.linspace(0.0, 1.0, n * n).reshape(n, n)
    share = (share + share.T) / 2
    marks = np.repeat(share[::-1, ::-1, None] / 3, 4, axis=2)
    edges = EdgeStability(share[::-1, ::-1], marks, np.zeros(3), 3, 0, {})
    # Another order: nodes are matched by their positions.
    stability = TargetStability(edges, graph.positions[::-1], graph.members[::-1], 0, 0)
    explanation = fake_explanation(VIEW, graphs=(graph,))
    data = case_payload(VIEW, [explanation], [], key="k", stability=[stability])
    (found,) = data["explanations"]
    assert found["stable"]
    for i, j, _, _, value, *_ in found["graphs"][0]["edges"]:
        a, b = (graph.members.index(tuple(found["graphs"][0]["nodes"][k][0])) for k in (i, j))
        assert value == pytest.approx(share[a, b], abs=2e-3)


def test_masks_that_were_tried_are_kept_with_their_answers():
    word = VIEW.layout.tokens.index("circle")
    tried = (
        TriedSet((), 0.98, ("red",), False, 3.0),
        TriedSet(((word,),), 0.4, ("green",), True, -0.1),
        TriedSet(((5,), (word,)), 0.2, ("</s>",), True, -1.0),
    )
    explanation = fake_explanation(VIEW, tried=tried)
    (found,) = case_payload(VIEW, [explanation], [], key="k")["explanations"]
    answers = {
        tuple(tuple(found["units"][u]) for u in units): (p, text, changed)
        for units, p, text, changed in found["tried"]
    }
    assert answers[((word,),)] == (0.4, "says “green”", True)
    assert answers[((5,), (word,))] == (0.2, "says nothing more", True)
    # What verified the joint set is known even where nothing else was kept.
    assert answers[((13,), (word,))] == (0.02, "says “<blue>”", True)
    assert () not in answers and found["before"] == 0.97
    everything = [p for unit in found["units"] for p in unit]
    assert len(everything) == len(set(everything))
    # All candidates can be masked; the frame and the predicting row cannot.
    expected = set(VIEW.layout.positions("image", "prompt").tolist())
    assert set(everything) == expected


def test_numbers_of_a_table_stand_with_their_method():
    values = [("relevancy", "deletion[remove]", 0.25), ("causal", "insertion[remove]", 0.75),
              ("rollout", "size", None)]  # fmt: skip
    table = MetricTable(
        tuple(MetricValue(metric, method, v, {}, 1, 1, 0.1) for method, metric, v in values),
        TARGET, {}, 3, 0.3,
    )  # fmt: skip
    other = replace(table, target=resolve_target(VIEW.layout, "circle"))
    data = case_payload(
        VIEW, [fake_explanation(VIEW)],
        [fake_attribution(VIEW), fake_attribution(VIEW, method="rollout")],
        key="k", metrics=[table, other],
    )  # fmt: skip
    assert data["attributions"][0]["metrics"] == [["deletion[remove]", "0.250", "↓"]]
    assert data["attributions"][1]["metrics"] == [["size", "–", "↓"]]
    assert data["explanations"][0]["metrics"] == [["insertion[remove]", "0.750", "↑"]]
    picture = Picture("heat", VIEW.images[0], "", "relevancy", "third")
    static = heat_html(VIEW, [(fake_attribution(VIEW), picture)], [table])
    assert "deletion[remove] ↓ 0.250" in static


def test_cells_lie_where_the_layout_says():
    view = several_view()
    data = case_payload(view, [], [], key="k")
    for position, image, *box in data["cells"]:
        assert image == view.region([position]).image
        assert box == pytest.approx(view.layout.patch_box(position), abs=0.01)
    assert [(i["width"], i["height"]) for i in data["images"]] == [i.size for i in view.images]
    assert data["labels"][1] == view.label((1,)) and data["kinds"][1] == "i"


@pytest.mark.parametrize("text", ["</script><b>", "<!--", "a\u2028b\u2029c", '"quoted" \\ \x00 é'])
def test_json_cannot_leave_its_element_and_comes_back_unchanged(text):
    written = json_for_html({text: [text, float("nan")]})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {text: [text, None]}


def test_colours_are_those_of_the_pictures():
    from matplotlib import colormaps

    tables = colour_tables(5)
    assert tables["cividis"][-1] == [round(255 * v) for v in colormaps["cividis"](1.0)[:3]]
    assert tables["PuOr"][2] == [round(255 * v) for v in colormaps["PuOr"](0.5)[:3]]


def test_data_of_a_large_image_stays_small():
    """576 patches, 32 heads: pairs of patches that are not drawn are not sent."""
    view = large_view()
    target = resolve_target(view.layout, "spoon")
    one = sparse_graph(view.layout, target, mean=3.0)
    heads = tuple(replace(one, head=k) for k in range(32))
    sets = {"joint": explaining_set("joint", (100,), (101,))}
    explanation = fake_explanation(view, "spoon", graphs=heads, sets=sets)
    text = json_for_html(case_payload(view, [explanation], [], key="k"))
    assert len(one.members) > 576 and len(text) < 900_000


def test_a_tester_that_counts_less_as_a_change_does_not_change_what_was_said():
    word = VIEW.layout.tokens.index("circle")
    tried = (
        TriedSet(((5,),), 0.4, ("red",), True, 0.3),
        TriedSet(((word,),), 0.1, (" blue",), False, -2.0),
    )
    sets = {"joint": explaining_set("joint", (5,), predicted_after=("red",), probability_after=0.4)}
    (found,) = case_payload(
        VIEW, [fake_explanation(VIEW, tester="drop", tried=tried, sets=sets)], [], key="k"
    )["explanations"]  # fmt: skip
    said = {
        key(found["units"][u] for u in units): (text, changed)
        for units, _, text, changed in found["tried"]
    }
    assert said == {((5,),): ("says “red”", False), ((word,),): ("says “blue”", True)}
    assert found["sets"][0]["changed"] is False and found["how"] == "necessary, drop"


def key(units):
    return tuple(tuple(unit) for unit in units)


def test_explanations_of_one_word_have_each_their_own_numbers():
    sets = {"joint": explaining_set("joint", (5,), probability_after=0.02)}
    kept = {"joint": explaining_set("joint", (6,), probability_after=0.9)}
    both = [fake_explanation(VIEW, sets=sets), fake_explanation(VIEW, sets=kept, mode="sufficient")]
    tables = []
    for mode, after, value in (("necessary", 0.02, 0.25), ("sufficient", 0.9, 0.5)):
        rows = [{"scope": "all", "k": 1, "positions": [7], "probability": value,
                 "first_choice": ["red"], "changed": False}]  # fmt: skip
        detail = {"mode": mode, "budget": 1, "rows": rows}
        own = {**detail, "rows": []}
        tables.append(
            MetricTable(
                (
                    MetricValue("masked_top[remove]", "causal", after, own, 0, 0, 0.0),
                    MetricValue("masked_top[remove]", "relevancy", value, detail, 1, 1, 0.0),
                    MetricValue("deletion[remove]", "causal", value, {}, 1, 1, 0.0),
                    MetricValue("deletion[remove]", "relevancy", 0.125, {}, 1, 1, 0.0),
                ),
                TARGET, {}, 3, 0.3,
            )
        )  # fmt: skip
    data = case_payload(VIEW, both, [fake_attribution(VIEW)], key="k", metrics=tables)
    first, second = data["explanations"]
    assert first["metrics"] == [["deletion[remove]", "0.250", "↓"]]
    assert second["metrics"] == [["deletion[remove]", "0.500", "↓"]]
    assert data["attributions"][0]["metrics"] == [["deletion[remove]", "0.125", "↓"]]
    assert [e["asked"][0][1] for e in (first, second)] == [0.25, 0.5]


def test_nothing_that_was_found_is_no_candidate_set():
    sets = {"joint": explaining_set("joint", verified=False, outcome="not_maskable", found_by=None)}
    (found,) = case_payload(VIEW, [fake_explanation(VIEW, sets=sets)], [], key="k")["explanations"]
    assert found["sets"][0]["badges"][0][1] == "no set was found"
