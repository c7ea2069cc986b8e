"""What the commands share: errors as one line, progress, what Ctrl-C leaves behind."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from causal_lvlm.errors import CausalLVLMError, one_line

__all__ = [
    "BAD_INPUT", "EXPECTED", "INTERRUPTED", "Debug", "Failures", "Json", "Progress",
    "clear_errors", "given", "one_thread", "say", "writing",
]  # fmt: skip

INTERRUPTED = 130
BAD_INPUT = 2
EXPECTED = (CausalLVLMError, ValueError, OSError)  # errors that are one line, not a traceback

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def say(text: str) -> None:
    """Print a remark on stderr; one that nobody can read any more ends no work."""
    with suppress(OSError):  # the terminal was closed, or the reader of a pipe has ended
        typer.echo(text, err=True)


@contextmanager
def clear_errors(debug: bool) -> Iterator[None]:
    """Turn expected errors into one line and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        say("causal-lvlm: interrupted; nothing had been found yet")
        raise typer.Exit(INTERRUPTED) from None
    except EXPECTED as error:
        if debug:
            raise
        say(f"causal-lvlm: {one_line(error)}")
        raise typer.Exit(BAD_INPUT) from None


class Failures:
    """Parts of the work that could not be done, once there is something that must not be lost.

    Attributes
    ----------
    lines : list of str
        What failed and why, one line each.
    """

    def __init__(self, debug: bool) -> None:
        self.debug = debug
        self.lines: list[str] = []

    @contextmanager
    def kept(self, what: str) -> Iterator[None]:
        """Note an expected error instead of raising it."""
        try:
            yield
        except EXPECTED as error:
            if self.debug:
                say("".join(traceback.format_exception(error)))
            self.lines.append(f"{what} failed: {one_line(error)}")

    def say(self) -> None:
        """Say what failed, a line each."""
        for line in self.lines:
            say(f"causal-lvlm: {line}")
        if self.lines:
            say("causal-lvlm: everything else was kept")

    def end(self) -> None:
        """End with the exit code of bad input if something failed."""
        if self.lines:
            raise typer.Exit(BAD_INPUT)


@contextmanager
def writing(folder: Path, failures: Failures, drawings: int) -> Iterator[Callable[[str], None]]:
    """Show progress while results are written, and keep what was printed before if that fails.

    Yields a function that names the next of so many `drawings`. After Ctrl-C while pictures are
    drawn it is said what is safe: the numbers come first.
    """
    kept = folder / "explanation.json"
    before = _stamp(kept)  # an earlier run may have left a file of that name
    with Progress(drawings + 1) as progress:
        progress.step("writing numbers")
        try:
            with failures.kept(f"writing to {str(folder)!r}"):
                yield progress.next
        except KeyboardInterrupt:
            progress.bar.close()  # or the remark would continue the line of the bar
            say(
                f"causal-lvlm: interrupted before all was drawn; the numbers are in {kept}"
                if _stamp(kept) not in (None, before)
                else "causal-lvlm: interrupted before the numbers were written"
            )
            raise typer.Exit(INTERRUPTED) from None


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what tells one version of a file from the next; files are replaced as a whole."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns


class KernelBar:
    """A bar on stderr for compiling kernels, which is there only if there are some to compile."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, done: int, total: int) -> None:
        """Show how far compiling is (the callback of `compile_kernels`)."""
        from tqdm import tqdm

        from causal_lvlm.structure.compiling import COMPILING

        if self._bar is None:
            self._bar = tqdm(
                total=total, file=sys.stderr, leave=False, desc=COMPILING, unit="kernel"
            )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Progress:
    """A progress bar on stderr, which is removed before anything else is printed."""

    def __init__(self, steps: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=steps, file=sys.stderr, leave=False, unit="step")
        self._kernels = KernelBar()

    def __enter__(self) -> Progress:
        """Start."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar, also after an error."""
        self._kernels.close()
        self.bar.close()

    def step(self, text: str) -> None:
        """Name what is done now."""
        self.bar.set_postfix_str("", refresh=False)
        self.bar.set_description_str(text)

    def done(self) -> None:
        """Count one step."""
        self.bar.update(1)

    def next(self, text: str) -> None:
        """Count one step and name the next."""
        self.done()
        self.step(text)

    def inside(self, stage: str, used: int, most: int) -> None:
        """Show how far a search is (the callback of `causal_lvlm.explain`)."""
        from causal_lvlm.structure.compiling import COMPILING

        if stage == COMPILING:
            self._kernels.show(used, most)
            return
        self._kernels.close()
        self.bar.set_postfix_str(f"{stage}, {used}/{most} model runs")


def one_thread() -> None:
    """Ask numerical libraries for one thread: many make a tiny model slower, not faster."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def given(**options: Any) -> dict[str, Any]:
    """Keep what the user gave, so that the library's own defaults hold for the rest."""
    return {name: value for name, value in options.items() if value is not None}
