"""One target under every setting: sets, what they cost, where they lie, and what the graph knew.

1. All settings share a memory of masked rows, passes and captures: each pays for what it asks, the
   processor once. What is counted is what was asked.
2. A set's size; on which object its image tokens lie; how many model runs had been spent when the
   last of the final sets was first met (``met``), and in all (``runs``).
3. The graph by itself: does the target's PDS-tree hold a true cause (a patch or word whose masking
   alone changes the answer), how many candidates it names, and how long a prefix of its order must
   be masked until the answer changes (what no tree holds follows in the order of the gradient).
"""

from __future__ import annotations

from typing import Any

import numpy as np

import causal_lvlm as cl
from causal_lvlm.correlation import attention_correlations
from causal_lvlm.covariance import TokenCorrelation
from causal_lvlm.errors import CausalLVLMError, TargetError
from causal_lvlm.explanation.union import union_graph
from causal_lvlm.tokens import Target, candidate_units, resolve_target
from experiments.ablations.settings import BASE, BY_NAME, Setting
from experiments.common.pairs import MemoTrace, Pair, load, pair_of
from experiments.common.tables import rounded

SCOPES = ("joint", "image", "text")
PREFIXES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# Names of the options of `explain` that the graph depends on.
OF_CORRELATION = ("source", "layer", "heads", "sink", "row", "tiers", "pool", "top_k",
                  "min_attention", "n_samples", "threshold")  # fmt: skip

# `size_*`: units of the verified set; all units of the scope where none was found within the
# budget (`missed` counts those); None where nothing in the scope can change the answer.
COLUMNS = (
    *(f"size_{s}" for s in SCOPES), "missed", "positions_image",
    "on_object", "held_joint", "held_image", "minimum_joint", "minimum_image",
    "met", "runs", "cause_1", "cause_3", "nodes_1", "nodes_3", "empty",
    "prefix_joint", "prefix_image",
)  # fmt: skip


class LoggedTrace(MemoTrace):
    """Remembers captures and passes too, and notes when each masked row was asked for first."""

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.kept: dict[Any, Any] = {}
        self.restart()

    def restart(self) -> None:
        """Begin to count anew."""
        self.asked = 0
        self.first: dict[bytes, int] = {}

    def evaluate(self, keep: np.ndarray, target: Any, **options: Any) -> Any:
        self.asked += len(keep)  # rows of one call are paid together
        for row in keep:
            self.first.setdefault(row.tobytes(), self.asked)
        return super().evaluate(keep, target, **options)

    def backward(self, target: Any, **options: Any) -> Any:
        key = ("backward", resolve_target(self.layout, target).positions, *sorted(options.items()))
        return self._once(key, lambda: self.trace.backward(target, **options))

    def attention(self, layers: Any = (-1,)) -> Any:
        return self._once(("attention", layers), lambda: self.trace.attention(layers))

    def iter_attention(self) -> Any:
        return iter(self._once("layers", lambda: list(self.trace.iter_attention())))

    def head_values(self, layer: int = -1) -> Any:
        return self._once(("values", layer), lambda: self.trace.head_values(layer))

    def to_dict(self) -> Any:
        return self._once("summary", self.trace.to_dict)

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]


def setup() -> Any:
    """Load the model, once per process."""
    import torch

    torch.set_num_threads(1)
    return load(None)


def work(item: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return what is saved of one target: one row of `COLUMNS` per setting."""
    pair = pair_of(model, {k: v for k, v in item.items() if k != "settings"})
    trace = LoggedTrace(pair.trace)
    single = causes(trace, pair)
    rows = {}
    for name in item["settings"]:
        values = measured(trace, pair, BY_NAME[name], single)
        rows[name] = rounded([values.get(column) for column in COLUMNS], 4)
    return {
        "kind": pair.kind, "scene": pair.scene, "answer": pair.trace.answer,
        "target": pair.target, "chance": pair.chance, "causes": len(single), "settings": rows,
    }  # fmt: skip


def causes(trace: Any, pair: Pair) -> frozenset[int]:
    """Return the positions whose masking alone changes the answer."""
    target = resolve_target(trace.layout, pair.target)
    units = candidate_units(trace.layout, target).members
    changed = flipped(trace, target, units)
    return frozenset(members[0] for members, yes in zip(units, changed, strict=True) if yes)


def flipped(trace: Any, target: Target, masks: Any) -> list[bool]:
    """Return for each set of positions whether the answer changes without it."""
    keep = np.ones((len(masks), len(trace.layout)), dtype=np.bool_)
    for row, mask in enumerate(masks):
        keep[row, list(mask)] = False
    found = trace.evaluate(keep, target, masking="remove", backend="auto", against=None)
    return [tuple(row) != target.token_ids for row in np.asarray(found.argmax).tolist()]


def measured(
    trace: LoggedTrace, pair: Pair, setting: Setting, single: frozenset[int]
) -> dict[str, Any]:
    """Return the figures of one setting."""
    trace.restart()
    given = {**BASE, **setting.options}
    if setting.union is not None:
        given["max_runs"] = 5  # only the graphs are wanted
    try:
        explanation = cl.explain(trace, pair.target, **given)
    except TargetError:  # this masking's unmasked pass does not choose the answer
        return {}
    values: dict[str, Any] = {}
    if setting.union is None:
        values = {**set_figures(trace, pair, explanation), "runs": explanation.model_runs}
    if setting.graph:
        graphs: tuple[Any, ...] = explanation.graphs
        if setting.union is not None and graphs:
            graphs = (union_graph(explanation, min_share=setting.union),)
        values |= graph_figures(trace, explanation, graphs, single)
    return values


def set_figures(trace: LoggedTrace, pair: Pair, explanation: Any) -> dict[str, Any]:
    """Return sizes, places and costs of the sets of all scopes."""
    values: dict[str, Any] = {"missed": 0, "met": 0}
    pool = explanation.parameters["pool"]
    units = candidate_units(trace.layout, explanation.target, pool=pool).modality
    images = units.count("image")
    in_scope = {"joint": len(units), "image": images, "text": len(units) - images}
    for name, found in explanation.sets.items():
        if found.outcome in ("not_maskable", "not_found", "no_candidates"):
            continue
        if not found.verified:
            values["missed"] += 1
            values[f"size_{name}"] = in_scope[name]
            values["met"] = max(values["met"], explanation.model_runs)
            continue
        keep = np.ones(len(trace.layout), dtype=np.bool_)
        keep[list(found.positions)] = False
        values["met"] = max(values["met"], trace.first[keep.tobytes()])
        values[f"size_{name}"] = found.size
        if name != "text":
            values[f"held_{name}"] = found.found_by == "graph"
            values[f"minimum_{name}"] = found.minimality == "minimum"
        if name == "image":
            values["positions_image"] = len(found.positions)
            if pair.chance:
                on = len(pair.object_positions & set(found.positions))
                values["on_object"] = on / len(found.positions)
    return values


def graph_figures(
    trace: LoggedTrace, explanation: Any, graphs: Any, single: frozenset[int]
) -> dict[str, Any]:
    """Return what the graphs know by themselves."""
    radius = explanation.parameters["max_radius"]
    allowed = set(range(explanation.target.start)) - {p for p, _ in explanation.excluded}
    depth: dict[tuple[int, ...], list[int]] = {}
    for graph in graphs:
        for r in range(1, radius + 1):
            for node in set(graph.tree.within(r)) - set(graph.tree.within(r - 1)):
                members = graph.members[node]
                if allowed.issuperset(members):
                    depth.setdefault(members, []).append(r)
    strength = strengths(trace, explanation, graphs)
    order = sorted(
        depth,
        key=lambda m: (min(depth[m]), -depth[m].count(min(depth[m])), -strength.get(m, 0.0), m),
    )
    near = {r: {p for m in order if min(depth[m]) <= r for p in m} for r in (1, 3)}
    values: dict[str, Any] = {
        "empty": float(np.mean([len(g.tree.node) <= 1 for g in graphs])) if graphs else 1.0,
        **{f"nodes_{r}": sum(min(d) <= r for d in depth.values()) for r in (1, 3)},
    }
    if single:
        values |= {f"cause_{r}": bool(near[r] & single) for r in (1, 3)}
    gradient = np.abs(trace.backward(explanation.target).input_x_gradient)
    held = {p for m in order for p in m}
    rest = sorted(allowed - held, key=lambda p: (-gradient[p], p))
    order += [(p,) for p in rest]
    image = [m for m in order if trace.layout.modality[m[0]] == "image"]
    values["prefix_joint"] = prefix(trace, explanation.target, order)
    values["prefix_image"] = prefix(trace, explanation.target, image)
    return values


def strengths(trace: Any, explanation: Any, graphs: Any) -> dict[tuple[int, ...], float]:
    """Return each node's largest |correlation| with the target over heads (weight in a union)."""
    found: dict[tuple[int, ...], float] = {}
    if any(hasattr(graph, "union") for graph in graphs):
        rows = [(g.members, g.confidence[:, g.target_node]) for g in graphs]
    else:
        options = {k: v for k, v in explanation.parameters.items() if k in OF_CORRELATION}
        try:
            correlations = attention_correlations(trace, explanation.target, **options)
        except CausalLVLMError:
            return found
        rows = [
            (c.members, np.abs(c.correlation[:, c.target_node]))
            for c in correlations
            if isinstance(c, TokenCorrelation)
        ]
    for members, values in rows:
        for m, value in zip(members, values, strict=True):
            found[m] = max(found.get(m, 0.0), float(value))
    return found


def prefix(trace: Any, target: Target, order: list[tuple[int, ...]]) -> int | None:
    """Return the shortest of the tried prefixes that changes the answer; None if nothing does.

    Where only something longer than `PREFIXES` does, all of the order counts.
    """

    def without(length: int) -> list[int]:
        return [p for m in order[:length] for p in m]

    if not order or not flipped(trace, target, [without(len(order))])[0]:
        return None
    lengths = [n for n in PREFIXES if n < len(order)]
    for start in range(0, len(lengths), 3):
        tried = lengths[start : start + 3]
        changed = flipped(trace, target, [without(n) for n in tried])
        if any(changed):
            return tried[changed.index(True)]
    return len(order)
