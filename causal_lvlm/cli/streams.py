"""Standard output and error that end no work, and arguments that are empty by mistake.

1. A reader that has gone (``| head -1``) is nothing that a command must know of: what it still
   prints is dropped, its files are written, and its exit code is that of its work.
2. Text that the terminal cannot show (names of files with bytes of another encoding, lone
   surrogates, typographic signs in an ASCII locale) is printed with backslashes.
3. No option and no file of ours can be empty; ``--out "$FOLDER"`` with a variable that is not set
   would otherwise write into the current folder. (An empty prompt has an error of its own.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from causal_lvlm.cli.support import BAD_INPUT, say

__all__ = ["Commands", "patient_streams"]


class _Patient:
    """A text stream whose reader may go."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop what nobody reads."""
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write what is held back, or drop it."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Let all that follows go nowhere, also what Python writes when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def patient_streams() -> Iterator[None]:
    """Make standard output and error patient inside the block."""
    before = sys.stdout, sys.stderr
    handlers = [getattr(stream, "errors", None) for stream in before]
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        if stream is not None:
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Patient(stream))
    try:
        yield
    finally:
        for stream, errors in zip((sys.stdout, sys.stderr), handlers, strict=True):
            if stream is not None:
                stream.flush()
                if hasattr(stream, "reconfigure"):
                    stream.reconfigure(errors=errors)
        sys.stdout, sys.stderr = before


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
