"""Whether two commits answer the same, bit for bit: a digest of every result, and what differs.

1. ``python -m tests.same_results OUT.json`` computes, on the embedded model, 20 targets of each
   experiment, and on bundled pictures every kind of option of `explain`, every method, every
   metric, structure learning, saved files, the report, and the texts of errors. The digest of a
   result is the SHA-256 of its plain values: floats by ``repr``, arrays by their bytes. Times,
   memory and versions are left out, the number of rows in a call is fixed, and what an experiment
   rounds is not rounded.
2. ``python -m tests.same_results --compare A.json B.json`` lists what differs and what only one
   has, and fails if anything differs.

For an older commit, copy the files ``same_*.py`` to a package ``tests`` elsewhere, and run it there
with that commit's package on the path: it calls what is public, and the experiments.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial, singledispatch, wraps
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import causal_lvlm as cl
from tests.same_calls import CALLS
from tests.same_commands import Items

# What no two runs have in common.
VOLATILE = {"digest", "seconds", "versions", "peak_memory", "commit", "processor_seconds"}
BATCH = 8
TARGETS = 20


@singledispatch
def plain(value: Any) -> Any:
    """Return a value as something JSON can hold, exactly, without what is volatile."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value):
        return plain({f.name: getattr(value, f.name) for f in fields(value)})
    raise TypeError(f"no plain value for a {type(value).__name__}")


@plain.register(type(None) | str | bool | int)
def _(value: Any) -> Any:
    return value


@plain.register(float)
def _(value: float) -> str:
    return repr(float(value))


@plain.register(np.generic)
def _(value: np.generic) -> Any:
    return plain(value.item())


@plain.register(np.ndarray)
def _(value: np.ndarray) -> list[Any]:
    if value.dtype == object:
        return plain(value.tolist())
    return [str(value.dtype), list(value.shape), _sha(np.ascontiguousarray(value).tobytes())]


@plain.register(Image.Image)
def _(value: Image.Image) -> list[Any]:
    return [value.mode, list(value.size), _sha(value.tobytes())]


@plain.register(Mapping)
def _(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): plain(v) for k, v in value.items() if k not in VOLATILE}


@plain.register(set | frozenset)
def _(value: Any) -> list[Any]:
    return sorted((plain(v) for v in value), key=repr)


@plain.register(list | tuple)
def _(value: Any) -> list[Any]:
    return [plain(v) for v in value]


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's plain form."""
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=True)
    return _sha(text.encode())[:20]


def fix_batches() -> None:
    """Let every question to a trace compute the same number of rows in a call.

    It follows measured times otherwise, and the last bits of a row depend on the rows beside it.
    """

    def fixed(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            if options.get("batch_size") is None:
                options["batch_size"] = BATCH
            return method(*arguments, **options)

        return call

    for name, method in inspect.getmembers(cl.Trace, inspect.isfunction):
        if "batch_size" in inspect.signature(method).parameters:
            setattr(cl.Trace, name, fixed(method))


def unrounded(module: Any) -> Any:
    """Return a module of an experiment, which no longer rounds what it saves."""
    if hasattr(module, "rounded"):
        module.rounded = lambda value, digits=5: value
    return module


# -- the experiments ------------------------------------------------------------------------------


def of_search(model: Any, n: int) -> Items:
    from experiments.common.pairs import plan_items
    from experiments.common.streams import SEARCH_REPORT
    from experiments.search import item, settings

    plan, _ = plan_items(model, TARGETS, seed=3, stream=SEARCH_REPORT, per_scene=1)
    for k, one in enumerate(plan[:n]):
        given = {
            **one,
            "lima": k % settings.LIMA_EVERY == 0,
            "pairs": k % settings.PAIRS_EVERY == 0,
            "sufficient": k % settings.SUFFICIENT_EVERY == 0,
        }
        yield f"{k}", partial(item.work, given, model)


def of_ablations(model: Any, n: int) -> Items:
    from experiments.ablations import measure
    from experiments.ablations.settings import SETTINGS
    from experiments.common.pairs import plan_items
    from experiments.common.streams import ABLATIONS_TUNE

    unrounded(measure)
    plan, _ = plan_items(model, TARGETS, seed=0, stream=ABLATIONS_TUNE, per_scene=1)
    for k, one in enumerate(plan[:n]):
        names = [s.name for s in SETTINGS if k % s.every == 0]
        yield f"{k}", partial(measure.work, {**one, "settings": names}, model)


def of_localisation(model: Any, n: int) -> Items:
    from experiments.common.pairs import plan_items
    from experiments.common.streams import LOCALISATION
    from experiments.localisation import measure

    unrounded(measure)
    plan, _ = plan_items(model, TARGETS, seed=0, stream=LOCALISATION, per_scene=1)
    for k, one in enumerate(plan[:n]):
        yield f"{k}", partial(measure.work, one, model)


def of_leaderboard(model: Any, n: int) -> Items:
    from experiments.leaderboard import item, run, settings

    unrounded(item)
    heads = [list(head) for head in run.chosen_heads(model, 0).heads]
    yield "heads", lambda: heads
    options = {**settings.OPTIONS, "attn_attrib": {"heads": heads}}
    state = {"model": model, "methods": run.chosen_methods(), "options": options}
    items, _ = run.items_of(model, TARGETS, 0)
    for k in range(n):
        yield f"{k}", partial(_without_costs, item.work, items[k], state)


def _without_costs(work: Callable[..., Any], *given: Any) -> Any:
    """Return a target of the leaderboard without seconds and memory."""
    result = work(*given)
    rows = {n: {**row, "cost": row["cost"][:2]} for n, row in result["methods"].items()}
    return {**result, "methods": rows}


def of_first_light(model: Any, n: int) -> Items:
    from experiments.first_light import calibrate, table
    from experiments.first_light.orders import GRAPH_SOURCES
    from experiments.first_light.pairs import DEVELOPMENT_STREAM, REPORT_STREAM, Pair, draw_pairs

    settings = [{**s, "row": "predictor", "sink": "keep", "tiers": "ordered", "threshold": 0.1}
                for s in GRAPH_SOURCES.values()]  # fmt: skip
    some = list(draw_pairs(model, 3, seed=0, stream=DEVELOPMENT_STREAM))
    pairs = [p for p in some if isinstance(p, Pair)]
    yield "calibrate", lambda: calibrate.study(pairs, settings)
    for pair in draw_pairs(model, n, seed=0, stream=REPORT_STREAM):
        if isinstance(pair, Pair):
            yield f"{pair.number}", partial(_first_light, table, pair)


def _first_light(table: Any, pair: Any) -> Any:
    return [table.explained(pair), table.ordered(pair, 0)]


def of_gallery(model: Any, n: int) -> Items:
    from experiments.gallery.entries import ENTRIES, Kit

    kit = Kit(model, 0)
    for name, entry in ENTRIES.items():
        yield name, partial(_entry, entry, kit)


def _entry(entry: Callable[..., Any], kit: Any) -> Any:
    numbers, pictures = entry(kit)
    return [numbers, {file: draw() for file, draw in pictures.items()}]


EXPERIMENTS = {
    "search": of_search, "ablations": of_ablations, "localisation": of_localisation,
    "leaderboard": of_leaderboard, "first_light": of_first_light, "gallery": of_gallery,
}  # fmt: skip
PARTS = [*EXPERIMENTS, *CALLS]


def compute(model: Any, part: str, n: int, only: str = "") -> dict[str, str]:
    """Return the digest of every item of one part; of an error, what it says."""
    found = {}
    for name, work in EXPERIMENTS[part](model, n) if part in EXPERIMENTS else CALLS[part](model):
        if only and only not in name:
            continue
        try:
            found[name] = digest(work())
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:400]
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each item that differs, or that only one side has (marked ``only``)."""
    lines = [f"differs {k}: {before[k]} | {now[k]}"
             for k in before if k in now and before[k] != now[k]]  # fmt: skip
    lines += [f"only before: {k}" for k in before if k not in now]
    return lines + [f"only now: {k}" for k in now if k not in before]


def main() -> int:
    """Compute digests, or compare two files of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--targets", type=int, default=TARGETS, help="of each experiment")
    parser.add_argument("--only", default="", help="items whose name has this in it")
    given = parser.parse_args()
    if given.compare:
        before, now = (json.loads(path.read_text("utf-8")) for path in given.compare)
        lines = differences(before, now)
        print("\n".join(lines))
        wrong = [line for line in lines if line.startswith("differs")]
        print(f"{len(set(before) & set(now))} compared, {len(wrong)} differ")
        return int(bool(wrong))
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    fix_batches()
    model, found = cl.load_model(), {}
    if given.out and given.out.exists():  # other parts are kept
        found = json.loads(given.out.read_text("utf-8"))
    for part in given.parts:
        started = time.process_time()
        items = compute(model, part, given.targets, given.only)
        found = {name: value for name, value in found.items() if not name.startswith(f"{part}/")}
        found |= {f"{part}/{name}": value for name, value in items.items()}
        print(f"{part}: {len(items)} items, {time.process_time() - started:.0f} s", flush=True)
        if given.out:
            given.out.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
    if not given.out:
        print(json.dumps(found, indent=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
