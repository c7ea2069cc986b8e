"""Held-out scene/question pairs of the embedded model, and a memory for model runs.

Every pair is a scene that no training, evaluation or sample stream has drawn, one question about
it (kinds in turn), and one token of the model's answer. Only right answers are used, because only
they have known objects to depend on; wrong ones are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

import causal_lvlm as cl
from causal_lvlm.tiny.scenes import Scene, draw_scene

DEVELOPMENT_STREAM, REPORT_STREAM = 71_001, 71_002
KINDS = ("colour", "shape", "existence", "count", "spoon", "caption")
COVERED = 0.12  # a patch belongs to an object that covers at least this share of it


@dataclass
class MemoTrace:
    """A trace that remembers every masked row: methods pay for each row, the processor once."""

    trace: Any
    rows: dict[tuple[bytes, Any], Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trace, name)

    def evaluate(self, keep: np.ndarray, target: Any, **options: Any) -> Any:
        key = (target.positions, *(options.get(k) for k in ("masking", "backend", "against")))
        names = [(row.tobytes(), key) for row in keep]
        new = [i for i, name in enumerate(names) if name not in self.rows]
        fresh = list({names[i]: i for i in new}.values())
        if fresh:
            result = self.trace.evaluate(keep[fresh], target, **options)
            self.backend = result.backend
            for k, i in enumerate(fresh):
                self.rows[names[i]] = (
                    result.token_log_probs[k],
                    result.argmax[k],
                    result.margin[k],
                    result.runner_up[k],
                )
        kept = [self.rows[name] for name in names]
        token_log_probs = np.array([k[0] for k in kept])
        return SimpleNamespace(
            token_log_probs=token_log_probs,
            log_prob=token_log_probs.sum(axis=1),
            argmax=np.array([k[1] for k in kept]),
            margin=np.array([k[2] for k in kept]),
            runner_up=np.array([k[3] for k in kept]),
            against_log_prob=None,
            backend=self.backend,
        )


@dataclass(frozen=True)
class Pair:
    """One target to explain, with what is known about it."""

    number: int
    kind: str
    trace: Any
    target: int
    object_positions: frozenset[int]  # image tokens of the objects that the answer depends on
    chance: float | None  # share of image tokens they are; None where the answer rests on absence


def _caption_target(scene: Scene, rng: np.random.Generator) -> tuple[int, tuple[int, ...]]:
    """Choose the noun of one object of a true caption: token index, and the object."""
    chosen = int(rng.integers(len(scene.objects)))
    index = 0
    for number, item in enumerate(scene.objects):
        index += 1 + len(item.name.split())  # "a", then the name
        if number == chosen:
            return index - 1, (number,)
        index += 1  # "and"
    raise AssertionError("unreachable: the chosen object is in the scene")


def draw_pairs(
    model: Any, n_pairs: int, *, seed: int, stream: int
) -> Iterator[Pair | tuple[str, str, str]]:
    """Yield `n_pairs` pairs answered rightly; wrong answers come as (kind, said, true)."""
    rng = np.random.default_rng([seed, stream])
    number = 0
    while number < n_pairs:
        scene = draw_scene(rng)
        kind = KINDS[number % len(KINDS)]
        asked = [q for q in scene.questions() if q.kind == kind]
        if not asked:
            continue
        question = asked[int(rng.integers(len(asked)))]
        trace = model.run(scene.image, question.prompt)
        if trace.answer.strip() != question.answer:
            yield kind, trace.answer, question.answer
            continue
        index, objects = 0, question.depends_on
        if kind == "caption":
            index, objects = _caption_target(scene, rng)
        coverage = scene.coverage[list(objects)].max(axis=0, initial=0.0)
        grid = trace.layout.grids[0]
        yield Pair(
            number=number,
            kind=kind,
            trace=MemoTrace(trace),
            target=index,
            object_positions=frozenset(int(p) for p in grid.positions[coverage >= COVERED]),
            chance=float((coverage >= COVERED).mean()) if objects else None,
        )
        number += 1


def load(path: str | None) -> Any:
    """Load the embedded model, or one from a folder."""
    return cl.load_model(path)
