"""Standard output and error that end no work, and arguments that are empty by mistake.

1. A reader that has gone (``| head -1``) is nothing that a command must know of: what it still
   prints is dropped, its files are written, and its exit code is that of its work.
2. Text that the terminal cannot show (names of files with bytes of another encoding, lone
   surrogates, typographic signs in an ASCII locale) is printed with backslashes.
3. No option and no file of ours can be empty; ``--out "$FOLDER"`` with a variable that is not set
   would otherwise write into the current folder. (An empty prompt has an error of its own.)
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from causal_lvlm.cli.support import BAD_INPUT, say

__all__ = ["Commands", "patient_streams"]


class _Patient(io.TextIOWrapper):
    """A text stream whose reader may go; it writes into the buffer of the stream it stands for."""

    @classmethod
    def of(cls, stream: io.TextIOWrapper) -> _Patient:
        """Stand for a stream, behind what it still holds back."""
        with suppress(BrokenPipeError):
            stream.flush()
        return cls(
            stream.buffer, encoding=stream.encoding, errors="backslashreplace",
            line_buffering=stream.line_buffering, write_through=stream.write_through,
        )  # fmt: skip

    def write(self, text: str) -> int:
        """Write, or drop what nobody reads."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write what is held back, or drop it."""
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Let all that follows go nowhere, also what Python writes when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


@contextmanager
def patient_streams() -> Iterator[None]:
    """Make standard output and error patient inside the block, where they write into a buffer."""
    before = sys.stdout, sys.stderr
    patient = [
        _Patient.of(stream) if isinstance(stream, io.TextIOWrapper) else None for stream in before
    ]
    sys.stdout, sys.stderr = (new or old for new, old in zip(patient, before, strict=True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in patient:
            if stream is not None:
                stream.detach()  # writes what is held back, and leaves the buffer open


class Commands(TyperGroup):
    """The commands, which take no empty argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an empty argument before anything is done."""
        for k, text in enumerate(args):
            option = text[:-1] if text.startswith("--") and text.endswith("=") else ""
            if not text and k and args[k - 1].startswith("-"):
                option = args[k - 1]
            if option or (not text and args[0] != "explain"):
                what = f"{option} is empty" if option else "an argument is empty"
                say(f"causal-lvlm: {what} (''); give it a value or leave it out")
                raise typer.Exit(BAD_INPUT)
        return super().parse_args(ctx, args)
