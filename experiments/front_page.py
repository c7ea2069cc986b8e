"""The results section of the project's README, put together from the experiments' own pages.

Each page is written from saved JSON by its experiment's ``--render`` (tests compare them); this
copies some of their blocks: ``python -m experiments.front_page``.
"""

from __future__ import annotations

import re
from pathlib import Path

from experiments.common.tables import fill

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"

# Block of the README: experiment and block of its page.
BLOCKS = {
    "search": ("search", "claim"),
    "explain": ("search", "explain"),
    "graph": ("graph", "claim"),
    "leaderboard": ("leaderboard", "claim"),
    "causal": ("leaderboard", "causal"),
    "setup": ("leaderboard", "setup"),
    "ablations": ("ablations", "claim"),
    "localisation": ("localisation", "claim"),
}


def texts() -> dict[str, str]:
    """Return the README's blocks by name."""
    return {name: block(*source) for name, source in BLOCKS.items()}


def block(experiment: str, name: str) -> str:
    """Return one block of an experiment's page."""
    page = (HERE / experiment / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- begin {name} -->\n(.*?)\n?<!-- end {name} -->", page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page of {experiment!r} has no block {name!r}")
    return found[1]


if __name__ == "__main__":
    fill(README, texts())
