"""Settings for all tests: one thread, and a folder for compiled kernels.

Both must be set before torch and numba are imported, so they stand at the top of this file.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# Kernels are kept there by the hash of their sources, so all checkouts can share the folder.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"causal-lvlm-numba-{os.getuid()}")
)


@pytest.fixture(scope="session")
def embedded_model():
    """The embedded model, loaded once; a test that changes a model loads its own."""
    import causal_lvlm

    return causal_lvlm.load_model()
