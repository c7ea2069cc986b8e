"""Following `explain` and `report` through the code stays short (`tests.walk` says how it counts).

The limits are those of today and may only get smaller.
"""

from __future__ import annotations

import networkx as nx
import pytest

from tests.walk import first_calls, route, routes

# (stays, climbs)
LIMITS = {"explain": (14, 2), "report": (37, 9)}


@pytest.fixture(scope="module")
def walked():
    return routes()


@pytest.mark.parametrize("name", LIMITS)
def test_the_way_from_a_call_to_its_result_is_short(walked, name):
    stays = walked[name]
    table = "\n".join(f"{'^' if s.climb else ' '} {s.module} {s.calls}" for s in stays)
    n_climbs = sum(s.climb for s in stays)
    assert len(stays) <= LIMITS[name][0] and n_climbs <= LIMITS[name][1], f"\n{table}"


def test_the_route_begins_where_the_user_calls_and_meets_what_asks_the_model(walked):
    modules = [s.module for s in walked["explain"]]
    assert modules[0] == "causal_lvlm.explanation.explain"
    assert "causal_lvlm.correlation" in modules and "causal_lvlm.explanation.graphs" in modules
    assert not [m for m in modules if m.startswith("causal_lvlm.lvlm")]


def test_stays_and_climbs_of_a_route_counted_by_hand():
    imports = nx.DiGraph([("p.top", "p.middle"), ("p.middle", "p.low"), ("p.top", "p.side")])
    calls = [
        ("", "p.top", "start"),
        ("p.top", "p.top", "helper"),  # beside its caller
        ("p.top", "p.low", "one"),
        ("p.top", "p.low", "two"),  # the same stay
        ("p.top", "p.side", "three"),  # neither imports the other
        ("p.top", "p.middle", "four"),
        ("p.middle", "causal_lvlm.tokens", "known"),  # a leaf
        ("p.middle", "causal_lvlm.lvlm.trace", "ask"),  # the seam
        ("causal_lvlm.lvlm.trace", "p.low", "behind"),
        ("p.middle", "p.low", "five"),
        ("p.low", "p.top", "called back"),  # through p.middle
    ]
    stays = route(calls, imports)
    assert [(s.module, s.climb) for s in stays] == [
        ("p.top", False), ("p.low", False), ("p.side", False), ("p.middle", False),
        ("p.low", False), ("p.top", True),
    ]  # fmt: skip
    assert stays[1].calls == ["one", "two"]


def test_only_what_is_handed_the_question_counts_and_only_once():
    from causal_lvlm.checks import check_text
    from causal_lvlm.errors import PromptError
    from causal_lvlm.tokens import Units, check_trace

    units = Units(members=((1,),), modality=("image",))
    calls = first_calls(
        lambda: (check_text("the prompt", "red", PromptError), units.unit_of(), units.unit_of())
    )
    assert [name for _, _, name in calls] == ["Units.unit_of"]
    with pytest.raises(Exception, match="trace"):
        first_calls(lambda: check_trace("no trace"))
