"""The calls that `tests.same_results` compares besides the experiments, each by a name.

Every part is a function of the model that yields names and what to do.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import causal_lvlm as cl
from causal_lvlm.tiny import sample_inputs
from tests.same_commands import Items, of_commands


def home_of(name: str, *rooms: str) -> Any:
    """Return what is called so and listed in ``__all__`` somewhere in these rooms."""
    for room in rooms:
        try:
            package = importlib.import_module(f"causal_lvlm.{room}")
        except ModuleNotFoundError:
            continue
        inside = [m.name for m in pkgutil.iter_modules(getattr(package, "__path__", []))]
        for module in (package, *(f"{package.__name__}.{n}" for n in inside)):
            found = importlib.import_module(module) if isinstance(module, str) else module
            if name in getattr(found, "__all__", ()):
                return getattr(found, name)
    raise LookupError(f"{name} is in none of {rooms}")


EXPLAIN: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"mode {m}, {t}": {"mode": m, "tester": t}
       for m in ("necessary", "sufficient") for t in ("flip", "drop", "contrast")},
    **{f"masking {m}": {"masking": m}
       for m in ("edges", "neutral", "pixels-blur", "pixels-mean")},
    **{f"backend {b}": {"backend": b} for b in ("drop", "block")},
    **{f"source {s}, {q}": {"source": s, "search": q}
       for s in ("attention", "output", "relevancy", "influence") for q in ("guided", "graph")},
    **{f"layer {layer}": {"layer": layer} for layer in (0, "global", "effective", "mean")},
    **{f"pool {p}, {q}": {"pool": p, "search": q} for p in (2, 4) for q in ("guided", "graph")},
    **{f"sink {s}": {"sink": s, "source": "attention"} for s in ("drop", "condition")},
    "row own": {"row": "own"},
    "tiers": {"tiers": "image-block"},
    "top_k": {"top_k": 8},
    "min_attention": {"min_attention": 0.05},
    "heads": {"heads": [1, 3]},
    "samples": {"n_samples": 128, "alpha": 0.01},
    **{f"algorithm {a}": {"algorithm": a} for a in ("icd", "fci", "pc")},
    "sequential": {"variant": "sequential", "max_conditioning_size": 2},
    "max_tests": {"max_tests": 200},
    "radius": {"max_radius": 1, "search": "graph"},
    "max_size": {"max_size": 1},
    **{f"max_runs {n}, {q}": {"max_runs": n, "search": q}
       for n in (2, 5, 25, 60) for q in ("guided", "graph")},
    "image": {"candidates": "image"},
    "text": {"candidates": "text"},
    "n_random 0": {"n_random": 0},
    "seed 7": {"seed": 7},
    "threads": {"n_jobs": 2, "source": "attention"},
    "published": {"source": "attention", "layer": -1, "search": "graph", "max_runs": 300},
    "sufficient, graph": {"mode": "sufficient", "search": "graph"},
}  # fmt: skip
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "contrastive_integrated_gradients": {"against": "blue"},
    "attn_attrib": {"heads": [[0, 1], [1, 2]]},
    "causal": {"max_runs": 60},
}
WRONG: dict[str, dict[str, Any]] = {
    f"{name} {value!r}": {name: value}
    for name, values in {
        "mode": ["maybe"], "tester": ["maybe", None], "masking": ["maybe"], "source": ["maybe"],
        "search": ["maybe"], "drop_ratio": [1.5, "x"], "candidates": [[0], "words", [999], []],
        "against": ["blue"], "layer": [99, "x", -99], "heads": [[99], [], [0, 0], "foo", [True]],
        "max_runs": [0, 1, 2.5], "time_limit": [0, float("nan")], "max_size": [0],
        "n_random": [-1], "pool": [1.5, 0], "seed": [None, -1], "alpha": [0.01, 2], "top_k": [0],
        "threshold": [-1, "x"], "algorithm": ["x"], "variant": ["x"], "backend": ["x"],
        "sink": ["x"], "row": ["x"], "tiers": ["x"], "max_radius": [0], "max_tests": [0],
        "n_jobs": [0], "progress": [3], "nonsense": [1],
    }.items()
    for value in values
}  # fmt: skip


def traces_of(model: Any) -> dict[str, Any]:
    """Return traces of bundled pictures: a word, a caption, a wrong answer."""
    samples = {s.name: s for s in sample_inputs()}
    names = [n for n in ("colour", "caption", "hallucination") if n in samples]
    return {n: model.run(samples[n].image_path, samples[n].prompt) for n in names}


def last_word(trace: Any) -> int:
    """Return the last generated token that is a word."""
    return int(trace.layout.positions("generated")[-1]) - trace.layout.n_prompt


def of_explain(model: Any) -> Items:
    for name, trace in traces_of(model).items():
        for label, options in EXPLAIN.items():
            if name == "colour" or label in ("default", "published", "mode sufficient, flip"):
                yield f"{name}/{label}", partial(_explained, trace, options)
    trace = traces_of(model)["colour"]
    for label, options in WRONG.items():
        yield f"wrong/{label}", partial(cl.explain, trace, 0, **options)
    for target in ("nonsense", 99, -99, None, slice(5, 9), 1.5):
        yield f"wrong/target {target!r}", partial(cl.explain, trace, target)
    yield "wrong/trace", partial(cl.explain, "no trace", 0)
    yield "exhaustive", partial(cl.exhaustive_explanation, trace, 0, max_size=1)
    yield (
        "exhaustive, sufficient",
        partial(cl.exhaustive_explanation, trace, 0, max_size=1, mode="sufficient", pool=2),
    )
    union, heads, stable = (
        home_of(name, "explanation", "methods", "structure")
        for name in ("union_graph", "head_graphs", "target_stability")
    )
    yield "union", lambda: union(cl.explain(trace, 0, source="attention", layer=-1)).to_dict()
    yield "head graphs", lambda: heads(trace, 0).to_dict()
    yield "stability", lambda: stable(trace, 0, runs=6, source="attention").to_dict()


def _explained(trace: Any, options: dict[str, Any]) -> Any:
    stages: list[Any] = []

    def told(*news: Any) -> None:
        stages.append(news)

    found = cl.explain(trace, last_word(trace), progress=told, **options)
    stages = [s for s in stages if not s[0].startswith("compiling")]
    return [found.to_dict(), found.sentence(), stages]


def of_methods(model: Any) -> Items:
    from experiments.leaderboard.settings import COSTLY

    for name, trace in traces_of(model).items():
        for info in cl.list_methods():
            if info.optional or (name != "colour" and info.name in COSTLY):
                continue
            given = {"units": "patch+word", "seed": 1, **METHOD_OPTIONS.get(info.name, {})}
            yield f"{name}/{info.name}", partial(_attributed, trace, info.name, given)
    yield from _other_methods(traces_of(model)["colour"])


def _other_methods(trace: Any) -> Items:
    for info in cl.list_methods():
        if info.optional:
            yield f"optional/{info.name}", partial(_attributed, trace, info.name, {})
        if info.family == "propagation":
            given = {"accept_patent_note": True}
            yield f"accepted/{info.name}", partial(_attributed, trace, info.name, given)
    for options in ({"method": "x"}, {"units": "x"}, {"seed": -1}, {"nonsense": 1}, {"layer": 99}):
        yield f"wrong/{options}", partial(_attributed, trace, "attention", dict(options))


def _attributed(trace: Any, method: str, options: dict[str, Any]) -> Any:
    found = cl.attribute(trace, last_word(trace), options.pop("method", method), **options)
    return [found, found.scores]


def of_metrics(model: Any) -> Items:
    trace = traces_of(model)["colour"]
    explanation = cl.explain(trace, 0)
    results = [
        explanation,
        cl.attribute(trace, 0, "relevancy"),
        cl.attribute(trace, 0, "rise", units="patch+word", n_masks=40),
        cl.attribute(trace, 0, "causal", units="patch+word", max_runs=60),
    ]
    grid = trace.layout.grids[0]
    box = [tuple(int(v) for v in grid.boxes[0][:2]) + tuple(int(v) for v in grid.boxes[20][2:])]
    for info in cl.list_metrics():
        options: dict[str, Any] = {"region": box} if info.needs == "region" else {}
        yield info.name, partial(_measured, trace, results, info.name, options)
        if info.masking is None and info.family == "faithfulness":
            yield (
                f"{info.name}[neutral]",
                partial(_measured, trace, results, f"{info.name}[neutral]", options),
            )
    yield "five", partial(
        _measured, trace, results,
        ["deletion", "insertion", "comprehensiveness", "sufficiency", "morf"], {},
    )  # fmt: skip
    yield "image", partial(_measured, trace, results[1:3], "deletion", {"units": "patch"})
    for options in ({"metrics": "x"}, {"units": "x"}, {"masking": "x"}, {"ties": "x"},
                    {"nonsense": 1}):  # fmt: skip
        yield f"wrong/{options}", partial(_measured, trace, results[1], "deletion", options)


def _measured(trace: Any, results: Any, metrics: Any, options: dict[str, Any]) -> Any:
    given = dict(options)
    return cl.evaluate(trace, 0, results, given.pop("metrics", metrics), **given).to_dict()


def of_structure(model: Any) -> Items:
    trace = traces_of(model)["colour"]
    sources = {
        "attention": cl.attention_correlation(trace, 0, head=1),
        "influence": cl.attention_correlation(trace, 0, source="influence"),
        "mean": cl.attention_correlation(trace, 0, layer="mean", pool=2),
        "data": np.random.default_rng(0).normal(size=(300, 12)) @ np.random.default_rng(1).normal(
            size=(12, 12)
        ),
    }  # fmt: skip
    for name, source in sources.items():
        level: dict[str, Any] = {"alpha": 0.01} if name == "data" else {}
        for algorithm in ("ordered_icd", "icd", "fci", "pc"):
            for variant in ("stable", "sequential"):
                options = {**level, "algorithm": algorithm, "variant": variant, "max_tests": 20_000}
                yield f"{name}/{algorithm}/{variant}", partial(_learned, source, options)
    for name, source in sources.items():
        if name != "data":
            yield f"correlation/{name}", partial(_itself, source)
    yield (
        "stability",
        lambda: cl.edge_stability(sources["data"], kind="data", runs=8, alphas=0.01, seed=0),
    )
    for options in ({"algorithm": "x"}, {"alpha": 2.0}, {"threshold": -1.0}, {"variant": "x"},
                    {"n_jobs": 0}, {}):  # fmt: skip
        yield f"wrong/{options}", partial(_learned, np.eye(3), options)


def _learned(source: Any, options: dict[str, Any]) -> Any:
    found = cl.learn_structure(source, **options)
    return [found.to_dict(), found.pag.marks]


def of_trace(model: Any) -> Items:
    trace = traces_of(model)["colour"]
    keep = np.ones((16, len(trace.layout)), dtype=np.bool_)
    free = trace.layout.positions("image")
    keep[:, free] = np.random.default_rng(0).random((16, len(free))) > 0.3
    for masking in ("remove", "edges", "neutral", "pixels-blur", "pixels-mean", "zero"):
        yield f"evaluate/{masking}", partial(trace.evaluate, keep, 0, masking=masking)
    yield "attention", lambda: trace.attention((0, -1))
    yield "embeddings", lambda: trace.embeddings()
    yield "hidden states", lambda: trace.hidden_states(0)
    yield "head outputs", lambda: trace.head_outputs(-1)
    yield "record", lambda: trace.to_dict()
    yield "backward", lambda: [trace.backward(0).input_x_gradient, trace.backward(0).gradient_norm]
    yield "blocked", lambda: trace.blocked([2, 3]).evaluate(keep, 0)
    yield "randomised", lambda: trace.on(model.randomised(1, seed=0)).to_dict()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = trace.save(folder / "t.json")
        yield "saved", lambda: json.loads(path.read_text("utf-8"))
        loaded = cl.Trace.load(path)
        yield "loaded", lambda: loaded.to_dict()
        for verb in ("attention", "embeddings", "head_outputs"):
            yield f"wrong/detached {verb}", getattr(loaded, verb)
        yield "wrong/detached evaluate", lambda: loaded.evaluate(keep, 0)
        yield "attached", lambda: loaded.attach(model).evaluate(keep, 0)
        yield "report", partial(_reported, trace, folder)
    for prompt in ("", None, 3):
        yield f"wrong/prompt {prompt!r}", partial(model.run, trace.image, prompt)
    yield "wrong/image", partial(model.run, "no/such.png", "what?")
    yield "wrong/keep", partial(trace.evaluate, keep[:, 1:], 0)


def _reported(trace: Any, folder: Path) -> Any:
    """Return the whole page, and all that is saved beside it."""
    found = replace(cl.explain(trace, 0), seconds=1.0, versions={})
    maps = [replace(cl.attribute(trace, 0, m), seconds=1.0, versions={}, peak_memory=1)
            for m in ("relevancy", "attention")]  # fmt: skip
    page = cl.report(trace, [found], folder / "r.html", attributions=maps)
    saved = found.save(folder / "e.json").read_text("utf-8")
    return [page.read_text("utf-8"), json.loads(saved), cl.Explanation.load(folder / "e.json")]


def _itself(value: Any) -> Any:
    return value


CALLS = {
    "explain": of_explain, "methods": of_methods, "metrics": of_metrics, "structure": of_structure,
    "trace": of_trace, "commands": of_commands,
}  # fmt: skip
