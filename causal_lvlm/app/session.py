"""The app without its face: what one open page can do.

1. `causal_lvlm.app.bench.Workbench` is shared: the models, the line of jobs, the folder that is
   removed at the end, and one `Session` for each open page.
2. `Session` is one page: its own runs of the model, at most a few, the oldest dropped; its own job,
   which it can stop; its own folder, removed when the page closes.
3. What takes long is a generator of `News`: the last is ``done``, ``stopped`` or ``error``; closing
   the generator stops the work (`causal_lvlm.app.work`).

Nothing here knows Gradio.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from causal_lvlm.app import work
from causal_lvlm.app.models import EMBEDDED
from causal_lvlm.app.records import Asked, Turn
from causal_lvlm.app.room import Taken
from causal_lvlm.app.runs import Runs
from causal_lvlm.app.shared import Shared
from causal_lvlm.app.turns import Job, News
from causal_lvlm.app.uploads import checked_image, checked_json, inside_folder, painted
from causal_lvlm.app.words import last_word, led, own_words
from causal_lvlm.tokens import resolve_target

if TYPE_CHECKING:
    from causal_lvlm.explanation import Explanation
    from causal_lvlm.lvlm import LVLM

__all__ = ["Session"]


class Session:
    """One open page.

    Parameters
    ----------
    bench : Workbench
    """

    def __init__(self, bench: Shared) -> None:
        self.bench = bench
        self.folder = Path(tempfile.mkdtemp(prefix="page-", dir=bench.folder))
        self.used = time.monotonic()
        self.lvlm: LVLM | None = None
        self.runs = Runs(bench.limits.runs, self.folder)
        self.image: Image.Image | None = None  # as it was uploaded
        self.second: Image.Image | None = None  # to compare it with
        self.strokes: list[Any] = []  # painted over it
        self.said: list[Turn] = []  # the conversation so far
        self.jobs: dict[str, Job] = {}
        self.stops = 0  # how often a stop was asked for: also between two jobs
        self.taken = Taken(bench.limits.uploads, bench.limits.upload_bytes)
        self._lock = threading.Lock()

    # -- housekeeping ---------------------------------------------------------------------------

    def stop(self) -> bool:
        """Stop whatever this page is waiting for; returns whether there was anything."""
        self.stops += 1
        running = [job for job in list(self.jobs.values()) if not job.finished.is_set()]
        for job in running:
            job.stop()
        return bool(running)

    def close(self) -> None:
        """Stop, forget everything and remove the folder."""
        self.stop()
        self.runs.kept.clear()
        self.said.clear()
        self.lvlm = self.image = self.second = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, slot: str = "main") -> Job:
        """Return a new job.

        It takes the place of what this page did before: in the slot ``live`` of what was live
        (masks that are tried while a search goes on), else of everything.
        """
        with self._lock:
            self.used = time.monotonic()
            for other, job in self.jobs.items():
                if slot in ("main", other):
                    job.stop()
            self.jobs[slot] = Job(name, self.bench.turns)
            return self.jobs[slot]

    def take_image(self, path: str | os.PathLike[str]) -> Image.Image:
        """Return a picture that was handed in, if it is not too much; see `checked_image`."""
        image = checked_image(self.taken.count(path))
        self.bench.check_pixels(image.width * image.height)
        return image

    def pixels(self) -> int:
        """Return the number of pixels of all pictures that this page keeps, each once."""
        said = (turn.image for turn in self.said)
        kept = [self.image, self.second, *said, *self.runs.images()]
        sizes = {id(image): image.width * image.height for image in kept if image is not None}
        return sum(sizes.values())

    def picture(self) -> Image.Image | None:
        """Return the picture with what was painted over it."""
        if self.image is None or not self.strokes:
            return self.image
        return painted(self.image, self.strokes)

    def _bound(self) -> None:
        """Drop old runs, then what was said long ago, until the pictures are not too many."""
        while self.pixels() > self.bench.limits.page_pixels:
            if len(self.runs.kept) > 1:
                self.runs.drop()
            elif self.said:
                self.said = self.said[1:]
            else:
                break

    # -- model ----------------------------------------------------------------------------------

    def model(self) -> LVLM:
        """Return this page's model: the embedded one unless another was chosen."""
        if self.lvlm is None:
            self.lvlm = self.bench.models.get(EMBEDDED, self.bench.in_use())
        return self.lvlm

    def choose_model(self, name: str) -> Iterator[News]:
        """Load a model for this page; ``done`` carries its description."""
        job = self._start("load")

        def load(job: Job) -> dict[str, Any]:
            job.progress(f"loading {name.strip() or EMBEDDED}", 0, 0)
            loaded = self.bench.models.get(name, self.bench.in_use(without=self))
            job.step()
            self.lvlm = loaded
            return loaded.describe()

        return job.run(load, turn=False)

    # -- asking ---------------------------------------------------------------------------------

    def ask(
        self,
        image: Image.Image | None,
        question: str,
        *,
        earlier: Sequence[Turn] = (),
        max_new_tokens: int = 64,
    ) -> Iterator[News]:
        """Ask the model; stages ``answer`` carry the text so far, ``done`` the `Asked`.

        Parameters
        ----------
        image : PIL.Image.Image or None
        question : str
        earlier : sequence of Turn
            What was asked and answered before, in the same conversation; the last few are sent.
        max_new_tokens : int
        """
        job, limits = self._start("ask"), self.bench.limits

        def ask(job: Job) -> Asked:
            job.report("asking", 0, 0)
            trace = work.answer(
                job, self.model(), limits, image, question, earlier=earlier,
                max_new_tokens=max_new_tokens,
            )  # fmt: skip
            asked = self.runs.add(trace, question)
            self._bound()
            asked.target = last_word(trace.layout)
            self.said = [*self.said, Turn(question, trace.answer, image)][-limits.turns :]
            self._bound()
            return asked

        return job.run(ask)

    def turns(self, texts: Sequence[tuple[str, str]]) -> list[Turn]:
        """Return a conversation, with the pictures as far as it was led here; see `led`."""
        return led(texts[-self.bench.limits.turns :], self.said)

    def look_at(self, token: int, number: int | None = None) -> Asked:
        """Choose the token of the answer that everything is about, counted from 0."""
        self.used = time.monotonic()
        asked = self.runs.asked(number)
        chosen = resolve_target(asked.trace.layout, int(token))
        with self._lock:  # what is being found out about another token is no longer shown
            for slot in ("main", "live"):
                if slot in self.jobs:
                    self.jobs.pop(slot).stop()
        asked.target = chosen
        return asked

    # -- what explains it -----------------------------------------------------------------------

    def attention(self, number: int | None = None) -> Iterator[News]:
        """Read the attention of a run; ``done`` carries the `AnswerAttention`."""
        asked, job = self.runs.asked(number), self._start("attention", "live")
        return job.run(lambda job: work.attend(job, asked))

    def explain(self, number: int | None = None, **options: Any) -> Iterator[News]:
        """Search explaining sets of the chosen token.

        Stages: ``attention`` (an `AnswerAttention`, at once), ``verified`` (each a smaller
        `Verified`); ``done`` carries the explanation. Stopping it gives the best set so far.
        """
        asked = self.runs.asked(number)
        target, job = asked.chosen(), self._start("explain")

        def explain(job: Job) -> Explanation:
            if asked.attached:
                work.attend(job, asked)
            job.stage("attention", asked.attention)
            return work.explain(job, asked, target, options)

        return job.run(explain)

    def attribute(
        self, methods: Sequence[str], number: int | None = None, *, accept_patent_note: bool = False
    ) -> Iterator[News]:
        """Run methods one after the other; each is a stage ``attribution``.

        Its value is an `Attribution`, or (name, error message) of a method that cannot be used. The
        causal one reads the explanation that there is, if the token has one.
        """
        asked = self.runs.asked(number)
        target, job = asked.chosen(), self._start("attribute")
        return job.run(lambda job: work.attribute(job, asked, target, methods, accept_patent_note))

    def mask(self, units: Sequence[Sequence[int]], number: int | None = None) -> Iterator[News]:
        """Ask again with units masked; ``done`` carries a `Masked`."""
        asked = self.runs.asked(number)
        target, job = asked.chosen(), self._start("mask", "live")
        return job.run(lambda _: work.mask(asked, target, units))

    def compare(
        self,
        sides: Sequence[tuple[Image.Image | None, str]],
        words: Sequence[str] = ("", ""),
        **options: Any,
    ) -> Iterator[News]:
        """Ask twice and explain a word of each answer.

        Stages: ``side`` with (place, Asked, Explanation); ``done`` carries the list of them. The
        runs are not kept.
        """
        job = self._start("compare")
        return job.run(
            lambda job: work.compare(job, self.model(), self.bench.limits, sides, words, options)
        )

    def aside(self, name: str, written: Callable[[], Any]) -> Iterator[News]:
        """Do what runs no model; ``done`` carries what it returns, unless it was stopped.

        It takes the place of what was called so before.
        """
        job = self._start(name, name)

        def watched(job: Job) -> Any:
            job.report(name, 0, 0)
            result = written()
            job.step()
            return result

        return job.run(watched, turn=False)

    # -- saved explanations ---------------------------------------------------------------------

    def open_link(self, name: str) -> Iterator[News]:
        """Open a file of the results folder; see `open_file`."""
        return self.open_file(lambda: inside_folder(self.bench.results, name))

    def open_file(self, path: str | os.PathLike[str] | Callable[[], Path]) -> Iterator[News]:
        """Open a saved explanation, handed in or found by a function; ``done`` carries the `Asked`.

        The run can be asked again if the page's model is the one it was made with; if not, it is
        shown as it was saved.
        """
        job = self._start("open")

        def reopen(job: Job) -> Asked:
            job.progress("opening", 0, 0)
            file = checked_json(path() if callable(path) else self.taken.count(path))
            self.bench.check_pixels(0)
            trace, found = work.reopen(file, self.model())
            asked = self.runs.add(trace, own_words(trace.layout))
            self._bound()
            asked.target = found.target
            asked.add(found)
            return asked

        return job.run(reopen)
