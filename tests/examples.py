"""How many examples property tests draw: few and always the same, or many and new ones.

``HYPOTHESIS_PROFILE=nightly`` draws twenty times as many, at random; a failure prints how to repeat
it. The default, ``ci``, is the same in every run.
"""

from __future__ import annotations

import os

from hypothesis import settings

__all__ = ["examples"]

settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, print_blob=True)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)


def examples(number: int) -> settings:
    """Return settings with this number of examples, more in the nightly profile."""
    return settings(max_examples=number * (20 if PROFILE == "nightly" else 1))
