"""What it costs to know in which order to mask: one pass beside the passes there were before.

``python -m experiments.capture_cost.orders`` explains a token of a random LLaVA with 49 x 49 image
tokens, within 100 model runs, twice in one run:

before
    The slow way of `tests.naive_composition`: a pass each for the covariance source, the attended
    row, the gradient norm and the composed row; every layer whole, every product a matrix.
after
    `causal_lvlm.target_pass.TargetPass`: all of that from one pass.

Each has a process of its own. A measurement that `results/orders.jsonl` holds for the same sizes is
not made again (``--again`` makes all anew). Sets, orders and graphs must be the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from experiments.capture_cost.common import (
    RESULTS,
    in_process,
    measured,
    picture,
    prompt_of,
    random_llava,
    save,
)

SIZES = ("side", "layers", "width", "heads", "runs")
WAYS = ("before", "after")
ORDERS = ("attended", "gradient norm", "composed")


class SlowPass:
    """What `TargetPass` says, a pass for each; notes the seconds of each."""

    def __init__(self, trace: Any, target: Any, source: str = "") -> None:
        self.trace, self.target = trace, target
        self.seconds: dict[str, float] = {}

    def _timed(self, name: str, call: Callable[[Any, Any], Any]) -> Any:
        start = time.thread_time()
        found = call(self.trace, self.target)
        self.seconds[name] = time.thread_time() - start
        return found

    @property
    def orders(self) -> SlowPass:
        """Each of them is computed when it is asked for."""
        return self

    def take_matrix(self) -> Any:
        from tests import naive_composition as naive

        return self._timed("source", naive.influence_matrix)

    @cached_property
    def attended(self) -> Any:
        from tests import naive_composition as naive

        return self._timed("attended", naive.attended)

    @cached_property
    def gradient_norm(self) -> Any:
        from tests import naive_composition as naive

        return self._timed("gradient norm", naive.gradient_norm)

    @cached_property
    def composed(self) -> Any:
        from tests import naive_composition as naive

        return self._timed("composed", naive.rollout)


def once(way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Explain one token one way, in this process."""
    import torch

    import causal_lvlm as cl
    from causal_lvlm.composition import influence_matrix
    from causal_lvlm.lvlm import LVLM
    from causal_lvlm.target_pass import TargetPass

    torch.set_num_threads(1)
    pixels = 14 * given.side
    model, processor = random_llava(
        layers=given.layers, width=given.width, heads=given.heads, image_size=pixels
    )
    text = f"USER: <image>\n{prompt_of(12)} ASSISTANT:"
    trace = LVLM(model, processor).run(picture(size=(pixels, pixels)), text, max_new_tokens=4)
    cl.learn_structure(np.eye(4), threshold=0.1, algorithm="ordered_icd")  # kernels are loaded
    made: list[Any] = []

    class Timed(TargetPass):
        """The one pass, with its seconds."""

        seconds: dict[str, float]

        @cached_property
        def orders(self) -> Any:
            start = time.thread_time()
            found = TargetPass.orders.func(self)  # type: ignore[attr-defined]
            self.seconds = {"pass": time.thread_time() - start}
            return found

    def make(*arguments: Any) -> Any:
        made.append((SlowPass if way == "before" else Timed)(*arguments))
        return made[-1]

    home: Any = import_module("causal_lvlm.explanation.explain")
    home.TargetPass = make
    # Enough controls that all runs are used.
    found, wall, cpu, peak = measured(
        lambda: cl.explain(trace, 0, max_runs=given.runs, n_random=given.runs)
    )
    (passed,) = made
    seconds = dict(passed.seconds)
    if way == "after":
        target = trace.target(0)
        _, _, seconds["source alone"], _ = measured(lambda: influence_matrix(trace, target))
        _, _, seconds["orders alone"], _ = measured(lambda: TargetPass(trace, target).orders)
    values = (passed.orders.attended, passed.orders.gradient_norm, passed.orders.composed)
    return {
        "way": way,
        **{name: getattr(given, name) for name in SIZES},
        "tokens": len(trace.layout),
        "wall": round(wall, 2),
        "cpu": round(cpu, 2),
        "peak_mb": round(peak / 2**20, 1),
        "model_runs": found.model_runs,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "sets": {name: [list(unit) for unit in one.units] for name, one in found.sets.items()},
        "edges": int((found.graphs[0].structure.pag.marks > 0).sum()),
        "first_100": {
            name: np.argsort(-np.asarray(value), kind="stable")[:100].tolist()
            for name, value in zip(ORDERS, values, strict=True)
        },
    }


def known(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what was measured for these sizes already."""
    path = RESULTS / "orders.jsonl"
    if given.again or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]
    wanted = {name: getattr(given, name) for name in SIZES}
    return {line["way"]: line for line in lines if wanted.items() <= line.items()}


def main() -> None:
    """Measure both ways and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=49)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--one", choices=WAYS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(once(given.one, given)))
        return
    found = known(given)
    sizes = [f"--{name}={getattr(given, name)}" for name in SIZES]
    for way in WAYS:
        if way not in found:
            found[way] = in_process("experiments.capture_cost.orders", *sizes, "--one", way)
            save("orders", list(found.values()))
        line = {k: v for k, v in found[way].items() if k not in ("first_100", "sets")}
        print(json.dumps(line), flush=True)
    before, after = found["before"], found["after"]
    slow = sum(before["seconds"][name] for name in ORDERS)
    more = max(after["seconds"]["pass"] - after["seconds"]["source alone"], 0.0)
    same = all(before[name] == after[name] for name in ("sets", "edges", "first_100"))
    print(f"orders: {slow:.1f} s before, {more:.1f} s more than the source alone after")
    print(f"of explain: {slow / before['cpu']:.1%} before, {more / after['cpu']:.1%} after")
    print(f"whole pass with the source: {after['seconds']['pass'] / after['cpu']:.1%} of explain")
    print(f"source: {before['seconds']['source'] / after['seconds']['source alone']:.1f} x faster")
    print(f"explain: {before['cpu'] / after['cpu']:.2f} x faster")
    print(f"memory: {before['peak_mb']} MB before, {after['peak_mb']} MB after")
    print("sets, first hundred of each order and number of edges:", "same" if same else "DIFFER")


if __name__ == "__main__":
    main()
