"""Output blocks of a page: written there by the script that produces them, read by the tests.

A block on a page is a line ``<!-- output: NAME -->`` followed by a fenced text block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_BLOCK = re.compile(r"(<!-- output: (\w+) -->\n```text\n)(.*?)(```)", re.DOTALL)


def blocks(page: str) -> dict[str, str]:
    """Return the blocks of a page by name."""
    return {name: text.rstrip("\n") for _, name, text, _ in _BLOCK.findall(page)}


def fill(path: Path, outputs: Mapping[str, str]) -> None:
    """Put outputs into the blocks of a page; every block must have one."""
    page = path.read_text(encoding="utf-8")
    page = _BLOCK.sub(lambda m: f"{m[1]}{outputs[m[2]]}\n{m[4]}", page)
    path.write_text(page, encoding="utf-8", newline="\n")


def sections(lines: Sequence[str]) -> dict[str, str]:
    """Return printed lines by section; a section begins with a line ``== NAME``."""
    found: dict[str, list[str]] = {}
    for line in "\n".join(lines).split("\n"):
        if line.startswith("== "):
            found[line[3:]] = current = []
        elif found:
            current.append(line)
    return {name: "\n".join(body).strip() for name, body in found.items()}
