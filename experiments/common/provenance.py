"""Which code made a result: versions of the packages, and the commit of this repository."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from causal_lvlm.storage import versions

__all__ = ["at_commit", "made_with"]

ROOT = Path(__file__).resolve().parents[2]


def made_with() -> dict[str, str]:
    """Return the versions of the packages and, in a checkout, the commit (marked if edited)."""
    code = ("causal_lvlm", "kernels", ":(glob)experiments/**/*.py")  # not the results
    try:
        commit = _git("rev-parse", "--short=7", "HEAD")
        edited = _git("status", "--porcelain", "--", *code)
    except (OSError, subprocess.CalledProcessError):
        return versions()
    return {**versions(), "commit": f"{commit}-edited" if edited else commit}


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def at_commit(config: Mapping[str, Any]) -> str:
    """Return ``, commit `abcdefg` `` for a page; empty where the code was no checkout."""
    commit = config["versions"].get("commit")
    return f", commit `{commit}`" if commit else ""
