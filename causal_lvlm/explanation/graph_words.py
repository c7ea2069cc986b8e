"""A verified causal graph in plain words: what was tested, and what the model said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from causal_lvlm.edges import Nodes
from causal_lvlm.explanation.wording import said
from causal_lvlm.tokens import Target

__all__ = ["graph_sentences", "refuted_sentences"]


class Tested(Protocol):
    """What was found about one set of edges; see `causal_lvlm.explanation.causal_graph.EdgeSet`."""

    @property
    def outcome(self) -> str:
        """What became of the search."""

    @property
    def verified(self) -> bool:
        """Whether the model confirmed it."""

    @property
    def node_edges(self) -> tuple[tuple[int, int], ...]:
        """Edges between nodes."""

    @property
    def minimality(self) -> str:
        """What is proven about its size."""

    @property
    def probability(self) -> float | None:
        """Of the target in the run that confirmed it."""

    @property
    def says(self) -> tuple[str, ...]:
        """First choices in that run."""

    @property
    def instead(self) -> str | None:
        """How the model goes on."""

    @property
    def random_rate(self) -> float | None:
        """Share of random sets that do the same."""

    @property
    def n_random(self) -> int:
        """How many were tried."""


class Refuted(Protocol):
    """What was refuted; see `causal_lvlm.explanation.causal_graph.Contradiction`."""

    @property
    def node(self) -> int:
        """Of which node it is said."""

    @property
    def kind(self) -> str:
        """What is said."""

    @property
    def verified(self) -> str:
        """What proves the contrary."""


_NONE = {
    "not_asked": "No edge was put to the model.",
    "prior": "With every content edge cut the model says it all the same: it came from the prior.",
}


def graph_sentences(
    target: Target, nodes: Nodes, labels: Sequence[str], sufficient: Tested, necessary: Tested
) -> tuple[str, ...]:
    """Return what was found, one sentence for each of the two sets of edges.

    Parameters
    ----------
    target : Target
    nodes : Nodes
    labels : sequence of str
        Short name of each node.
    sufficient, necessary : EdgeSet
    """
    if sufficient.outcome in _NONE and not necessary.verified:
        return (_NONE[sufficient.outcome],)
    word = labels[nodes.target]
    found = []
    for one, kept in ((sufficient, True), (necessary, False)):
        what = "keep" if kept else "end"
        if not one.verified:
            found.append(f"No set of edges was found that would {what} {word} ({one.outcome}).")
            continue
        count = len(one.node_edges)
        edges = "edge" if count == 1 else "edges"
        drawn = ", ".join(f"{labels[s]} → {labels[r]}" for s, r in one.node_edges)
        chance = "" if one.random_rate is None else (
            f"; {one.random_rate:.0%} of {one.n_random} random sets like it do the same"
        )  # fmt: skip
        proven = {"minimum": ", as few as can be", "irreducible": ", none of which can be left out"}
        claim = "" if count == 1 else proven.get(one.minimality, "")
        if kept:
            text = f"{count} {edges} alone keep{'s' * (count == 1)} {word}{claim}"
        else:
            # Testers other than ``flip`` look at probabilities: the first choice may stay.
            stays = "".join(one.says).strip() == target.text.strip()
            what = "still says it" if stays else f"{said(one.says)} instead of {word}"
            text = f"With {count} {edges} cut{claim}, the model {what}"
        goes_on = f" Its answer would have been “{one.instead}”." if one.instead else ""
        found.append(f"{text} (p = {one.probability:.2f}{chance}): {drawn}.{goes_on}")
    return tuple(found)


def refuted_sentences(
    contradictions: Sequence[Refuted], labels: Sequence[str], target: str
) -> tuple[str, ...]:
    """Return what the learned graph says and interventions refuted; one proof is said once.

    Parameters
    ----------
    contradictions : sequence of Contradiction
    labels : sequence of str
        Short name of each node.
    target : str
        Name of the target.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for one in contradictions:
        groups.setdefault((one.kind, one.verified), []).append(labels[one.node])
    claims = {
        "arrowhead": "has an arrowhead at {} on the edge to {}: no cause of it",
        "no path": "has no path by which {} could be a cause of {}",
    }
    return tuple(
        f"The learned graph {claims[kind].format(', '.join(names), target)}; but {proof}."
        for (kind, proof), names in groups.items()
    )
