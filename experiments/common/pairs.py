"""Held-out scene/question pairs of the embedded model, and a memory for model runs.

Every pair is a scene that no training, evaluation or sample stream has drawn, a question about it
and one token of the model's answer. Only right answers are used, because only they have known
objects to depend on; wrong ones are counted.

`draw_pairs` walks along one stream, a scene per pair. `plan_items` gives every scene a generator of
its own and asks several questions about it: its items are plain data, from which `pair_of` makes
the pair again in any process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

import causal_lvlm as cl
from causal_lvlm.tiny.scenes import Question, Scene, draw_scene

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
            check=None,
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
    scene: int = -1  # what the intervals are clustered by, where a scene has several targets
    boxes: tuple[tuple[int, int, int, int], ...] = ()  # of the objects, in pixels


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


def make_pair(
    number: int,
    scene: Scene,
    question: Question,
    trace: Any,
    rng: np.random.Generator,
    scene_number: int = -1,
) -> Pair:
    """Choose the token to explain and note the objects that it depends on."""
    index, objects = 0, question.depends_on
    if question.kind == "caption":
        index, objects = _caption_target(scene, rng)
    coverage = scene.coverage[list(objects)].max(axis=0, initial=0.0)
    grid = trace.layout.grids[0]
    return Pair(
        number=number,
        kind=question.kind,
        trace=trace,
        target=index,
        object_positions=frozenset(int(p) for p in grid.positions[coverage >= COVERED]),
        chance=float((coverage >= COVERED).mean()) if objects else None,
        boxes=tuple(_box(scene.objects[o].mask) for o in objects),
        scene=scene_number,
    )


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of an object's pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


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
        yield make_pair(number, scene, question, MemoTrace(trace), rng)
        number += 1


def plan_items(
    model: Any, n_targets: int, *, seed: int, stream: int, per_scene: int = 3
) -> tuple[list[dict[str, int]], list[tuple[str, str, str]]]:
    """Find the first `n_targets` questions that the model answers rightly.

    A scene is asked at most `per_scene` questions of different kinds; the kinds take turns.

    Returns
    -------
    items : list of dict
        ``{"seed", "stream", "scene", "question"}``: what `pair_of` needs.
    wrong : list of tuple
        (kind, said, true) of the questions answered wrongly.
    """
    items: list[dict[str, int]] = []
    wrong: list[tuple[str, str, str]] = []
    number = turn = 0
    while len(items) < n_targets:
        scene, rng = _scene(seed, stream, number)
        questions = scene.questions()
        kinds = {q.kind for q in questions}
        for kind in [k for k in _turned(KINDS, turn) if k in kinds][:per_scene]:
            of_kind = [i for i, q in enumerate(questions) if q.kind == kind]
            index = of_kind[int(rng.integers(len(of_kind)))]
            said = model.run(scene.image, questions[index].prompt).answer.strip()
            if said != questions[index].answer:
                wrong.append((kind, said, questions[index].answer))
            elif len(items) < n_targets:
                items.append({"seed": seed, "stream": stream, "scene": number, "question": index})
        number, turn = number + 1, turn + per_scene
    return items, wrong


def pair_of(model: Any, item: dict[str, int]) -> Pair:
    """Make the pair of an item of `plan_items` (its trace has no memory of its own)."""
    scene, _ = _scene(item["seed"], item["stream"], item["scene"])
    question = scene.questions()[item["question"]]
    trace = model.run(scene.image, question.prompt)
    rng = np.random.default_rng([item[k] for k in ("seed", "stream", "scene", "question")])
    return make_pair(item["question"], scene, question, trace, rng, item["scene"])


def _scene(seed: int, stream: int, number: int) -> tuple[Scene, np.random.Generator]:
    rng = np.random.default_rng([seed, stream, number])
    return draw_scene(rng), rng


def _turned(kinds: Sequence[str], turn: int) -> list[str]:
    start = turn % len(kinds)
    return [*kinds[start:], *kinds[:start]]


def load(path: str | None) -> Any:
    """Load the embedded model, or one from a folder."""
    return cl.load_model(path)
