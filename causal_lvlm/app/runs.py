"""The runs of the model that a page keeps: the last few, the oldest dropped with its files."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from causal_lvlm.app.records import Asked
from causal_lvlm.errors import PromptError

if TYPE_CHECKING:
    from causal_lvlm.lvlm.trace import Trace

__all__ = ["Runs"]


class Runs:
    """The last runs of one page.

    Parameters
    ----------
    most : int
        Runs that are kept.
    folder : pathlib.Path
        Of the page; files that are handed out about a run lie in a folder inside it.

    Attributes
    ----------
    kept : OrderedDict of int to Asked
        By number, counted from 1, the oldest first.
    """

    def __init__(self, most: int, folder: Path) -> None:
        self.most, self.folder = most, folder
        self.kept: OrderedDict[int, Asked] = OrderedDict()
        self._count = 0

    def asked(self, number: int | None = None) -> Asked:
        """Return a run, the newest by default.

        Raises
        ------
        PromptError
            If there is none: nothing was asked, or it was dropped.
        """
        if not self.kept:
            raise PromptError("nothing has been asked yet; ask a question about a picture first")
        if number is None:
            return next(reversed(self.kept.values()))
        if number not in self.kept:
            raise PromptError(
                f"question {number} is no longer kept (the last {self.most} are); ask it again"
            )
        return self.kept[number]

    def add(self, trace: Trace, question: str) -> Asked:
        """Keep a run, and drop the oldest where they are too many."""
        self._count += 1
        asked = self.kept[self._count] = Asked(self._count, trace, question)
        while len(self.kept) > self.most:
            self.drop()
        return asked

    def drop(self) -> None:
        """Drop the oldest run, with its files."""
        number, _ = self.kept.popitem(last=False)
        shutil.rmtree(self.exported(number), ignore_errors=True)

    def exported(self, number: int) -> Path:
        """Return the folder of the files that are handed out about a run."""
        return self.folder / f"export-{number}"

    def images(self) -> Iterator[Image.Image]:
        """Yield the pictures of all runs."""
        for asked in list(self.kept.values()):
            yield from asked.trace.images
