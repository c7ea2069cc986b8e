"""The verified graph: what is shown of it, its picture, its page and its exports."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from PIL import Image

from causal_lvlm import report
from causal_lvlm.edges import Nodes
from causal_lvlm.errors import OutputError
from causal_lvlm.explanation.causal_graph import CausalGraph
from causal_lvlm.explanation.edge_results import CausalEdge, Cause, Contradiction, EdgeSet
from causal_lvlm.viz import draw_causal_graph
from causal_lvlm.viz.causal_parts import end_marks, shown_graph
from causal_lvlm.viz.causal_words import EDGE_MEANING, graph_title, signed, what_if
from causal_lvlm.viz.payload_causal import causal_payload
from tests.viz.fakes import fake_explanation, fake_layout, fake_view

VIEW = fake_view()
TARGET = fake_explanation(VIEW, "red").target
# Image patches [0,0], [0,1], [1,0], [1,1], [5,5]; “what”, “circle” of the prompt; ":"; the target.
PLACES = (3, 4, 11, 12, 48, 67, 71, 74)
KINDS = ("image",) * 5 + ("prompt",) * 2 + ("special", "target")
PATCH, WHAT, CIRCLE, FRAME, END = 4, 5, 6, 7, 8


def fake_graph(**changes: object) -> CausalGraph:
    layout = fake_layout()
    nodes = Nodes((*((p,) for p in PLACES), (TARGET.start - 1,)), KINDS)
    labels = (*(layout.label(p) for p in PLACES), "“red”")
    kept, gone = ((PATCH, FRAME), (CIRCLE, END)), ((CIRCLE, END),)
    edges = (
        *(CausalEdge(n, CIRCLE, "o->", "o->", 0.1) for n in range(4)),
        CausalEdge(PATCH, FRAME, "", "", 0.2, 0.25, "sufficient", 6.85, ("red",)),
        CausalEdge(CIRCLE, END, "<->", "-->", 2.0, 9.1, "both", -2.0, ("blue",)),
        CausalEdge(WHAT, END, "<->", "", 0.0),
    )
    values = {
        "target": TARGET, "nodes": nodes, "labels": labels, "frame": (0, 1, 2, 74), "kind": "mask",
        "sufficient": EdgeSet(
            "verified", node_edges=kept, verified=True, minimality="irreducible",
            probability=0.9, says=("red",), random_rate=0.0, n_random=20,
        ),
        "necessary": EdgeSet(
            "verified", node_edges=gone, verified=True, minimality="minimum",
            probability=0.01, says=("blue",), instead="blue circle",
        ),
        "edges": edges, "learned_pag": None, "pag": None,
        "causes": (Cause(CIRCLE, "cut", True, "cutting circle → “red”: the model says 'blue'"),),
        "contradictions": (Contradiction(CIRCLE, "arrowhead", "learned: <->", "cutting it"),),
        "model_runs": 42, "summary": VIEW.run.to_dict(),
    }  # fmt: skip
    return CausalGraph(**{**values, **changes})  # type: ignore[arg-type]


def test_patches_that_touch_and_are_alike_become_one_node() -> None:
    shown = shown_graph(fake_graph(), VIEW.layout)
    assert shown.members[0] == (3, 4, 11, 12)
    assert shown.members[PATCH] == (48,) and not {1, 2, 3} & set(shown.members)
    apart = shown_graph(fake_graph())
    assert len(apart.members) == len(shown.members) + 3


def test_verified_edges_are_always_shown_and_refuted_ones_never() -> None:
    shown = shown_graph(fake_graph(), VIEW.layout, max_nodes=1)
    assert {(e.source, e.reader) for e in shown.edges} == {(PATCH, FRAME), (CIRCLE, END)}
    assert shown.left_out == (4, 4)
    everything = shown_graph(fake_graph(), VIEW.layout).edges
    assert (WHAT, END) not in {(e.source, e.reader) for e in everything}
    assert shown.frame == [(FRAME, END)]


@pytest.mark.parametrize(
    ("symbol", "marks"), [("o->", (1, 2)), ("<->", (2, 2)), ("-->", (3, 2)), ("<-o", (2, 1))]
)
def test_marks_are_read_from_their_symbol(symbol: str, marks: tuple[int, int]) -> None:
    assert end_marks(symbol) == marks


def test_what_a_cut_did_is_one_sentence() -> None:
    graph = fake_graph()
    assert what_if(graph, graph.edges[5]) == (
        "circle → “red” cut by itself: margin 7.1 → −2.0, the model says “blue”."
    )
    assert "not cut by itself" in what_if(graph, graph.edges[0])
    assert (signed(3.21), signed(-0.5)) == ("−3.2", "+0.50")


def test_a_graph_without_a_tested_edge_is_not_called_verified() -> None:
    asked = EdgeSet("not_asked")
    assert graph_title(fake_graph()) == "Verified graph"
    free = fake_graph(sufficient=asked, necessary=asked, edges=fake_graph().edges[:4])
    assert "verified" not in graph_title(free).lower()
    assert "nothing verified" in graph_title(replace(free, sufficient=EdgeSet("prior")))


@pytest.mark.parametrize("engine", ["auto", "networkx"])
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_picture_is_written_in_every_format(tmp_path: Path, engine: str, suffix: str) -> None:
    path = tmp_path / f"graph{suffix}"
    image = draw_causal_graph(fake_graph(), path=path, engine=engine)
    assert image.mode == "RGB" and path.stat().st_size > 5_000
    if suffix == ".png":
        again = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
        assert np.ptp(again) > 200


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="end the name in"):
        draw_causal_graph(fake_graph(), path=tmp_path / "graph.gif")


def test_without_its_trace_the_graph_needs_one() -> None:
    graph = fake_graph(summary={})
    with pytest.raises(OutputError):
        draw_causal_graph(graph)
    assert draw_causal_graph(graph, trace=VIEW, scene=False).width > 400


def test_the_payload_holds_a_what_if_for_every_edge() -> None:
    found = causal_payload(VIEW, fake_graph())
    assert len(found["edges"]) == len(found["tested"])
    by_kind = {kind: (effect, text) for kind, effect, text in found["tested"]}
    assert set(by_kind) == {"both", "sufficient", "none", "frame"}
    assert by_kind["both"][0] == "−9.1" and "margin 7.1 → −2.0" in by_kind["both"][1]
    assert [kind for kind, _ in found["meaning"]] == ["sufficient", "both", "none", "frame"]
    assert sorted(found["numbers"])[-1] == 1
    json.dumps(found)


def test_the_page_shows_the_graph_of_an_explanation_and_one_alone(tmp_path: Path) -> None:
    graph = fake_graph()
    explained = report(VIEW.run, [fake_explanation(VIEW, "red"), graph], tmp_path / "a.html")
    text = explained.read_text(encoding="utf-8")
    assert "circle → “red” cut by itself: margin 7.1 → −2.0" in text
    assert "Refuted, not drawn: " in text and '"title":"Verified graph"' in text.replace(": ", ":")
    assert text.count("Its answer would have been") >= 2  # static, and as data
    alone = report(VIEW.run, [graph], tmp_path / "b.html").read_text(encoding="utf-8")
    assert "cut by itself: margin 7.1" in alone and "Why did the model say “red”?" in alone
    without = report(VIEW.run, [fake_explanation(VIEW, "red")], tmp_path / "c.html")
    assert '"causal":[]' in without.read_text(encoding="utf-8").replace(": ", ":")


def test_exports_carry_verified_effects_and_marks_and_nothing_refuted() -> None:
    graph = fake_graph()
    found = graph.to_networkx()
    assert not found.has_edge(WHAT, END)
    both = found.edges[CIRCLE, END]
    assert both["verified"] == "both" and both["measured"] == 9.1 and both["estimated"] == 2.0
    assert (both["mark_source"], both["mark_target"], both["kind"]) == ("tail", "arrow", "-->")
    text = graph.to_graphml()
    assert isinstance(text, str)
    again = nx.parse_graphml(text)
    assert again.edges[str(CIRCLE), str(END)] == both
    assert again.nodes[str(PATCH)]["positions"] == "48"
    dot = graph.to_dot()
    assert f'{CIRCLE} -> {END} [arrowtail=none, arrowhead=normal, verified="both"' in dot
    assert 'label="both -9.10"' in dot and f"{WHAT} -> {END}" not in dot


def test_graphml_is_written_to_a_file(tmp_path: Path) -> None:
    path = fake_graph().to_graphml(tmp_path / "g.graphml")
    assert isinstance(path, Path) and nx.read_graphml(path).number_of_edges() == 6


def test_what_a_cut_did_is_kept_in_the_file(tmp_path: Path) -> None:
    again = CausalGraph.load(fake_graph().save(tmp_path / "g.json"))
    assert again.edges == fake_graph().edges


def test_kinds_have_words() -> None:
    assert set(EDGE_MEANING) == {"sufficient", "necessary", "both", "none"}
