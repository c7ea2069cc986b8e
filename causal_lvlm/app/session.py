"""The app without its face: what one open page can do.

1. `Workbench` is shared: the models, the line of jobs, the folder that is removed at the end, and
   one `Session` for each open page (see `causal_lvlm.app.bench`).
2. `Session` is one page: its own runs of the model (`Asked`), at most a few, the oldest dropped;
   its own job, which it can stop; its own folder, removed when the page closes.
3. What takes long is a generator of `News`: the last is ``done``, ``stopped`` or ``error``; closing
   the generator stops the work.

Nothing here knows Gradio.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from causal_lvlm.app.attention import AnswerAttention, answer_attention
from causal_lvlm.app.errors import error_text
from causal_lvlm.app.models import EMBEDDED
from causal_lvlm.app.records import Asked, Masked, Turn
from causal_lvlm.app.room import Taken
from causal_lvlm.app.turns import Job, News
from causal_lvlm.app.uploads import checked_image, checked_json, inside_folder, painted
from causal_lvlm.app.watch import Verified, WatchedTrace
from causal_lvlm.app.words import conversation, last_word, own_words
from causal_lvlm.errors import CausalLVLMError, PromptError
from causal_lvlm.tokens import Target, Units, candidate_units, resolve_target

if TYPE_CHECKING:
    from causal_lvlm.app.bench import Workbench

__all__ = ["Session"]

_LEARNING = "learning graphs"  # the stage of `causal_lvlm.explain` that uses no model


class Session:
    """One open page.

    Parameters
    ----------
    key : str
    bench : Workbench
    """

    def __init__(self, key: str, bench: Workbench) -> None:
        self.key = key
        self.bench = bench
        self.folder = Path(tempfile.mkdtemp(prefix="page-", dir=bench.folder))
        self.used = time.monotonic()
        self.lvlm: Any = None
        self.runs: OrderedDict[int, Asked] = OrderedDict()
        self.image: Image.Image | None = None  # as it was uploaded
        self.second: Image.Image | None = None  # to compare it with
        self.strokes: list[Any] = []  # painted over it
        self.said: list[Turn] = []  # the conversation so far
        self.jobs: dict[str, Job] = {}
        self.stops = 0  # how often a stop was asked for: also between two jobs
        self._count = 0
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
        self.runs.clear()
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
        traces = [asked.trace.images for asked in list(self.runs.values())]
        kept = [self.image, self.second, *(turn.image for turn in self.said), *chain(*traces)]
        sizes = {id(image): image.width * image.height for image in kept if image is not None}
        return sum(sizes.values())

    def picture(self) -> Image.Image | None:
        """Return the picture with what was painted over it."""
        if self.image is None or not self.strokes:
            return self.image
        return painted(self.image, self.strokes)

    def asked(self, number: int | None = None) -> Asked:
        """Return a run of this page, the newest by default.

        Raises
        ------
        PromptError
            If there is none: nothing was asked, or it was dropped.
        """
        if not self.runs:
            raise PromptError("nothing has been asked yet; ask a question about a picture first")
        if number is None:
            return next(reversed(self.runs.values()))
        if number not in self.runs:
            raise PromptError(
                f"question {number} is no longer kept (the last {self.bench.limits.runs} are); "
                "ask it again"
            )
        return self.runs[number]

    def _keep(self, trace: Any, question: str) -> Asked:
        self._count += 1
        asked = Asked(self._count, trace, question)
        self.runs[self._count] = asked
        while len(self.runs) > self.bench.limits.runs:
            self._drop_run()
        self._bound()
        return asked

    def _drop_run(self) -> None:
        number, _ = self.runs.popitem(last=False)
        shutil.rmtree(self.exported(number), ignore_errors=True)

    def _bound(self) -> None:
        """Drop old runs, then what was said long ago, until the pictures are not too many."""
        while self.pixels() > self.bench.limits.page_pixels:
            if len(self.runs) > 1:
                self._drop_run()
            elif self.said:
                self.said = self.said[1:]
            else:
                break

    def exported(self, number: int) -> Path:
        """Return the folder of the files that are handed out about a run."""
        return self.folder / f"export-{number}"

    # -- model ----------------------------------------------------------------------------------

    def model(self) -> Any:
        """Return this page's model: the embedded one unless another was chosen."""
        if self.lvlm is None:
            self.lvlm = self.bench.models.get(EMBEDDED, self.bench.in_use())
        return self.lvlm

    def choose_model(self, name: str) -> Iterator[News]:
        """Load a model for this page; ``done`` carries its description."""
        job = self._start("load")

        def work(job: Job) -> Any:
            job.progress(f"loading {name.strip() or EMBEDDED}", 0, 0)
            loaded = self.bench.models.get(name, self.bench.in_use(without=self))
            job.step()
            self.lvlm = loaded
            return loaded.describe()

        return job.run(work, turn=False)

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
        job, most = self._start("ask"), self.bench.limits.turns

        def work(job: Job) -> Asked:
            job.report("asking", 0, 0)
            trace = self._run(job, image, question, earlier, max_new_tokens)
            asked = self._keep(trace, question)
            asked.target = last_word(trace.layout)
            self.said = [*self.said, Turn(question, trace.answer, image)][-most:]
            self._bound()
            return asked

        return job.run(work)

    def turns(self, texts: Sequence[tuple[str, str]]) -> list[Turn]:
        """Return a conversation, with the pictures as far as it was led here.

        Parameters
        ----------
        texts : sequence of (str, str)
            Its questions and answers.
        """
        most = self.bench.limits.turns
        found = [Turn(question, answer) for question, answer in texts[-most:]]
        for place in range(1, min(len(found), len(self.said)) + 1):
            if self.said[-place][:2] != found[-place][:2]:
                break
            found[-place] = self.said[-place]
        return found

    def _run(
        self,
        job: Job,
        image: Image.Image | None,
        question: str,
        earlier: Sequence[Turn],
        max_new_tokens: int,
    ) -> Any:
        limits = self.bench.limits
        if len(question) > limits.prompt:
            raise PromptError(
                f"the question has {len(question)} characters; allowed are {limits.prompt}"
            )
        lvlm = self.model()
        if image is None and not lvlm.family.text_only:
            raise PromptError("this model looks at a picture; choose or upload one first")
        if lvlm.placeholder and lvlm.placeholder in question:
            question = question.replace(lvlm.placeholder, " ")  # pictures are placed by us
        pictures: Any = image
        prompt: Any = question
        if earlier:
            pictures, prompt = conversation(image, question, earlier)
            pictures = pictures or None

        def tell(token_id: int, text: str) -> None:
            if job.stopping:
                job.step()  # raises
            job.stage("answer", text)

        most = max(1, min(max_new_tokens, limits.new_tokens))
        return lvlm.run(pictures, prompt, max_new_tokens=most, on_token=tell)

    def look_at(self, token: int, number: int | None = None) -> Asked:
        """Choose the token of the answer that everything is about, counted from 0."""
        self.used = time.monotonic()
        asked = self.asked(number)
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
        asked, job = self.asked(number), self._start("attention", "live")

        def work(job: Job) -> AnswerAttention:
            if asked.attention is None:
                asked.attention = answer_attention(asked.trace, job.progress)
            return asked.attention

        return job.run(work)

    def explain(self, number: int | None = None, **options: Any) -> Iterator[News]:
        """Search explaining sets of the chosen token.

        Stages: ``attention`` (an `AnswerAttention`, at once), ``verified`` (each a smaller
        `Verified`); ``done`` carries the explanation. Stopping it gives the best set so far.
        """
        asked = self.asked(number)
        target, job = self._target(asked), self._start("explain")

        def work(job: Job) -> Any:
            if asked.attention is None and asked.attached:
                asked.attention = answer_attention(asked.trace, job.progress)
            job.stage("attention", asked.attention)
            return self._explain(job, asked, target, options)

        return job.run(work)

    def _explain(self, job: Job, asked: Asked, target: Target, options: Mapping[str, Any]) -> Any:
        import causal_lvlm

        units = None
        plain = options.get("mode", "necessary") == "necessary"
        if plain and options.get("tester", "flip") == "flip":
            units = candidate_units(asked.trace.layout, target, pool=options.get("pool", 1))
        watched = WatchedTrace(
            asked.trace, job, None if units is None else _teller(job), units=units
        )

        def report(what: str, done: int, total: int) -> None:
            job.report(what, done, total)
            if what == _LEARNING:
                job.rest()

        # A stop arrives where the search asks the model: there it keeps what it has found.
        found = causal_lvlm.explain(watched, target, progress=report, **options)
        key = (target.start, found.mode, found.masking, found.parameters.get("source"))
        if any(s.verified for s in found.sets.values()) or not job.stopping:
            asked.explanations.pop(key, None)  # a search stopped too early replaces nothing
            asked.explanations[key] = found
        return found

    def attribute(
        self, methods: Sequence[str], number: int | None = None, *, accept_patent_note: bool = False
    ) -> Iterator[News]:
        """Run methods one after the other; each is a stage ``attribution``.

        Its value is an `Attribution`, or (name, error message) of a method that cannot be used. The
        causal one reads the explanation that there is, if the token has one.
        """
        asked = self.asked(number)
        target, job = self._target(asked), self._start("attribute")

        def work(job: Job) -> list[Any]:
            import causal_lvlm
            from causal_lvlm.methods import from_explanation

            patented = {m.name for m in causal_lvlm.list_methods() if m.family == "propagation"}
            if not accept_patent_note:
                patented = set()
            results: list[Any] = []
            for place, name in enumerate(methods):
                job.progress(name, place, len(methods))
                key = (target.start, name)
                if key not in asked.attributions:
                    watched = WatchedTrace(asked.trace, job)
                    options: dict[str, Any] = {}
                    if name in patented:
                        options["accept_patent_note"] = True
                    try:
                        if name == "causal" and asked.explanation() is not None:
                            found = from_explanation(asked.explanation())
                        else:
                            found = causal_lvlm.attribute(
                                watched, target, name, progress=job.progress, **options
                            )
                        asked.attributions[key] = found
                    except (CausalLVLMError, ValueError, TypeError) as error:
                        job.stage("attribution", (name, error_text(str(error))))
                        continue
                results.append(asked.attributions[key])
                job.stage("attribution", asked.attributions[key])
            return results

        return job.run(work)

    def mask(self, units: Sequence[Sequence[int]], number: int | None = None) -> Iterator[News]:
        """Ask again with units masked; ``done`` carries a `Masked`."""
        asked = self.asked(number)
        target, job = self._target(asked), self._start("mask", "live")

        def work(job: Job) -> Masked:
            hidden = sorted({int(p) for unit in units for p in unit})
            chosen = candidate_units(asked.trace.layout, target, candidates=hidden)
            subsets: list[Sequence[int]] = [range(len(chosen))]
            if target.start not in asked.before:
                subsets.append(())
            keep = chosen.keep_without(subsets, len(asked.trace.layout))
            result = asked.trace.evaluate(keep, target)
            if len(subsets) > 1:
                asked.before[target.start] = _probability(result, 1)
            said = [asked.trace.token_text(int(i)).strip() for i in result.argmax[0]]
            return Masked(
                tuple(hidden),
                _probability(result, 0),
                asked.before[target.start],
                " ".join(said),
                tuple(int(i) for i in result.argmax[0]) != tuple(target.token_ids),
            )

        return job.run(work)

    def units(self, number: int | None = None) -> Units:
        """Return what can be masked for the chosen token."""
        asked = self.asked(number)
        return candidate_units(asked.trace.layout, self._target(asked))

    def _target(self, asked: Asked) -> Target:
        if asked.target is None:
            raise PromptError("no token of the answer is chosen; click one")
        return asked.target

    # -- two at once ----------------------------------------------------------------------------

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

        def work(job: Job) -> list[tuple[Asked, Any]]:
            results: list[tuple[Asked, Any]] = []
            for place, (image, question) in enumerate(sides):
                job.progress(f"asking {'AB'[place]}", place, len(sides))
                trace = self._run(job, image, question, (), 64)
                asked = Asked(0, trace, question)
                word = words[place].strip()
                asked.target = (
                    resolve_target(trace.layout, word) if word else last_word(trace.layout)
                )
                found = self._explain(job, asked, self._target(asked), options)
                job.step()  # a search that was stopped returns; the comparison must not go on
                results.append((asked, found))
                job.stage("side", (place, asked, found))
            return results

        return job.run(work)

    def aside(self, name: str, work: Callable[[], Any]) -> Iterator[News]:
        """Do what runs no model; ``done`` carries what it returns, unless it was stopped.

        Parameters
        ----------
        name : str
            What it is called; it takes the place of what was called so before.
        work : callable
        """
        job = self._start(name, name)

        def watched(job: Job) -> Any:
            job.report(name, 0, 0)
            result = work()
            job.step()
            return result

        return job.run(watched, turn=False)

    # -- saved explanations ---------------------------------------------------------------------

    def open_link(self, name: str) -> Iterator[News]:
        """Open a file of the results folder; see `open_file`."""
        return self.open_file(lambda: inside_folder(self.bench.results, name))

    def open_file(self, path: Any) -> Iterator[News]:
        """Open a saved explanation; ``done`` carries the `Asked`.

        The run can be asked again if the page's model is the one it was made with; if not, it is
        shown as it was saved.
        """
        job = self._start("open")

        def work(job: Job) -> Asked:
            from causal_lvlm.explanation import Explanation
            from causal_lvlm.lvlm.trace import Trace

            job.progress("opening", 0, 0)
            file = checked_json(path() if callable(path) else self.taken.count(path))
            self.bench.check_pixels(0)
            found = Explanation.load(file)
            trace = Trace.from_dict(dict(found.summary))
            lvlm = self.model()
            if lvlm.model_id == found.model_id:
                try:
                    trace.attach(lvlm)
                except CausalLVLMError:
                    trace = Trace.from_dict(dict(found.summary))  # shown, not asked
            asked = self._keep(trace, own_words(trace.layout))
            asked.target = found.target
            key = (found.target.start, found.mode, found.masking, found.parameters.get("source"))
            asked.explanations[key] = found
            return asked

        return job.run(work)


def _teller(job: Job) -> Any:
    def tell(found: Verified) -> None:
        job.stage("verified", found)

    return tell


def _probability(result: Any, row: int) -> float:
    return math.exp(float(result.log_prob[row]))
