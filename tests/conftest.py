"""Settings for all tests: one thread, and a cache of compiled kernels that is never stale.

Both must be set before torch and numba are imported, so they stand at the top of this file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _kernel_hash() -> str:
    """Hash the kernels' sources: numba looks at a file's own age only, not at what it calls."""
    root = Path(__file__).resolve().parent.parent / "kernels" / "causal_kernels"
    digest = hashlib.sha256()
    for source in sorted(root.glob("**/*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


os.environ.setdefault(
    "NUMBA_CACHE_DIR",
    str(Path(tempfile.gettempdir()) / f"causal-lvlm-numba-{os.getuid()}" / _kernel_hash()),
)


@pytest.fixture(scope="session")
def embedded_model():
    """The embedded model, loaded once; a test that changes a model loads its own."""
    import causal_lvlm

    return causal_lvlm.load_model()
