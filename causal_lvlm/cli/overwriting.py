"""What a command must not write over: the files that it reads, and files of other people.

A file that is named as a result is replaced, as everywhere, unless it is one of the files that are
read. In a folder of results the names are ours, so there a file of such a name is replaced only if
the folder holds what an earlier run wrote.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from causal_lvlm.errors import OutputError
from causal_lvlm.storage import output_folder

__all__ = ["EXPLAINED", "LEARNED", "results_folder", "spare"]

# What `causal_lvlm.viz.bundle` and `causal_lvlm.cli.graph_report` write, and the kinds of their
# first file, by which a folder of an earlier run is known.
EXPLAINED = (
    r"explanation\.json|report\.html|(.+-)?(patches(-.+)?|prompt|pag(-.+)?|pds-tree(-.+)?|"
    r"(heat|metrics|stability|heads)(-.+)?)\.(png|json|npz|dot|graphml)"
)
LEARNED = (
    r"(structure|stability|null|comparison)\.(json|npz)|(pag|cpdag)\.(json|graphml|dot|\w+\.txt)"
)
_FIRST = {
    EXPLAINED: ("explanation.json", ("explanation", "explanations")),
    LEARNED: ("structure.json", ("learned_structure",)),
}


def spare(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Refuse to write over a file that is read, and to write two results into one file.

    Files are the same by whatever name: through links, or relative to somewhere else.

    Raises
    ------
    OutputError
    """
    named = [path for path in outputs if path is not None]
    for place, out in enumerate(named):
        for file in inputs:
            if file is not None and _same(out, file):
                raise OutputError(
                    f"{str(out)!r} is where the result goes, and it is a file that is read "
                    f"({str(file)!r}): it would be lost. Choose another file for the result"
                )
        if any(os.path.realpath(out) == os.path.realpath(other) for other in named[:place]):
            raise OutputError(f"two results go to {str(out)!r}; choose another file for one")


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except (OSError, ValueError):  # what is not there cannot be lost
        return False


def results_folder(
    out: Path, names: str, inputs: Iterable[Path | None] = (), more: Iterable[str] = ()
) -> Path:
    """Return the folder for results, made and proven to be writable, if nothing there is lost.

    Parameters
    ----------
    out : pathlib.Path
    names : str
        `EXPLAINED` or `LEARNED`.
    inputs : iterable of pathlib.Path
        Files that are read.
    more : iterable of str
        Names that are written besides.

    Raises
    ------
    OutputError
        If the folder cannot be written to, or a file that is not ours has a name that is used.
    """
    folder = output_folder(out)
    wanted = re.compile("|".join([names, *map(re.escape, more)]))
    there = sorted(path for path in folder.iterdir() if wanted.fullmatch(path.name))
    for path in there:
        spare([path], inputs)
    first, kinds = _FIRST[names]
    others = [path for path in there if not _is_ours(path, kinds)]
    if others and not _is_ours(folder / first, kinds):
        raise OutputError(
            f"the folder {str(out)!r} holds {others[0].name!r}, which no earlier run of this "
            "command wrote: it would be lost. Choose another folder, or move the file"
        )
    return folder


def _is_ours(path: Path, kinds: tuple[str, ...]) -> bool:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("kind") in kinds
