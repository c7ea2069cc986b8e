"""A random LLaVA with the real 24 x 24 grid, and the memory and time of a call.

Every measurement runs in a process of its own, so that one cannot profit from (or pay for) what
another left behind. Memory is the peak of the resident set over what it was before the call.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
VOCABULARY = 32_000
RESULTS = Path(__file__).parent / "results"
# Large blocks go back to the system when freed: the peak is what was needed, not what was hoarded.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}


def random_llava(
    *, layers: int, width: int, heads: int, vision_layers: int = 6, image_size: int = 336
) -> tuple[Any, Any]:
    """Return a random LLaVA (336 / 14: 576 image tokens) with a vocabulary of real size."""
    import torch

    from tests.models import tiny_llava

    model, processor = tiny_llava(
        seed=0,
        layers=layers,
        width=width,
        heads=heads,
        image_size=image_size,
        patch=14,
        vision_layers=vision_layers,
    )
    known = len(processor.tokenizer)
    model.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[known:] = 0  # never generated: the tokenizer has no text for them
    model.get_decoder().config.max_position_embeddings = 4096
    return model.eval(), processor


def prompt_of(n_words: int) -> str:
    """Return a prompt of about so many tokens."""
    words = "what color is the circle and the square in this image".split()
    return " ".join(words[i % len(words)] for i in range(n_words))


def picture(seed: int = 0, size: tuple[int, int] = (336, 336)) -> Any:
    """Return an image of smooth coloured noise."""
    import numpy as np
    from PIL import Image

    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def resident() -> int:
    """Return the resident set in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE


def measured(call: Callable[[], Any]) -> tuple[Any, float, float, int]:
    """Return the call's result, wall and CPU seconds, and the most memory above the start."""
    gc.collect()
    base = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    start, used = time.perf_counter(), time.thread_time()
    try:
        result = call()
    finally:
        seconds, used = time.perf_counter() - start, time.thread_time() - used
        peak = max(peak, resident())
        done.set()
        thread.join()
    return result, seconds, used, peak - base


def in_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run a measurement in a fresh process; its last line of output is the result."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **ENVIRONMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def save(name: str, lines: list[dict[str, Any]]) -> Path:
    """Write JSON lines to the folder of results."""
    import platform

    import torch
    import transformers

    RESULTS.mkdir(exist_ok=True)
    facts = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    path = RESULTS / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [facts, *lines]))
    return path
