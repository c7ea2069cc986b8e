"""The gallery: ask the embedded model, explain what it says, write the page.

``python -m experiments.gallery.run``

1. Measure every entry (`entries.py`), draw its pictures to ``results/``, and save every number that
   the page uses to ``results/gallery.json``; not with ``--render``.
2. With ``--screenshots``, take pictures of the report and of the app in a Chromium that is there.
   Without it, earlier ones are kept, and the page says so.
3. Write the page from that file (`page.py`), without a model.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from pathlib import Path
from typing import Any

from PIL import Image

from causal_lvlm.storage import read_json, to_jsonable, write_bytes, write_json
from experiments.common.provenance import made_with
from experiments.common.tables import rounded
from experiments.gallery.page import RESULTS, render

KIND = "gallery"
COMMAND = "python -m experiments.gallery.run"
LARGEST = 200_000  # bytes of one picture
WIDEST = 1440  # pixels; the page shows about 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--render", action="store_true", help="keep the numbers that are saved")
    parser.add_argument(
        "--screenshots", action="store_true", help="take them again; needs Playwright and Chromium"
    )
    given = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # two busy threads slow small models
    if not given.render:
        measure(given.out, given.seed)
    if given.screenshots:
        photograph(given.out, given.seed)
    render(given.out)


def loaded(seed: int) -> Any:
    """Return what every entry needs, on one thread."""
    import torch

    import causal_lvlm as cl
    from experiments.gallery.entries import Kit

    torch.set_num_threads(1)
    return Kit(cl.load_model(), seed)


def photograph(out: Path, seed: int) -> None:
    """Take the screenshots, where that is possible, and save what the page says about them."""
    from experiments.gallery.screenshots import take

    shots = take(loaded(seed), out, save)
    if shots is not None:
        write_json(out / "gallery.json", {**read_json(out / "gallery.json", KIND),
                                          "screenshots": shots})  # fmt: skip


def measure(out: Path, seed: int) -> None:
    """Measure all entries, draw their pictures, and save what the page needs."""
    from experiments.gallery.entries import ENTRIES

    started, worked = time.perf_counter(), time.process_time()
    kit = loaded(seed)
    found: dict[str, Any] = {}
    for name, entry in ENTRIES.items():
        begun = time.perf_counter()
        numbers, pictures = entry(kit)
        for file, draw in pictures.items():
            save(draw(), out / f"{file}.png")
        taken = time.perf_counter() - begun
        found[name] = {**rounded(to_jsonable(numbers)), "seconds": round(taken, 1)}
        print(f"{name}: {taken:.0f} s", flush=True)
    seconds = [round(time.process_time() - worked), round(time.perf_counter() - started)]
    write_json(out / "gallery.json", {
        "kind": KIND, "command": COMMAND, "seed": seed, "model": kit.model.model_id,
        "versions": made_with(), "processor_seconds": seconds[0], "seconds": seconds[1],
        "entries": found, "screenshots": earlier_screenshots(out),
    })  # fmt: skip


def earlier_screenshots(out: Path) -> dict[str, Any] | None:
    """Return what is known of the screenshots that an earlier run took; None without any."""
    path = out / "gallery.json"
    if not path.exists():
        return None
    shots: dict[str, Any] | None = read_json(path, KIND).get("screenshots")
    return None if shots is None else {**shots, "by_this_run": False}


def reduced(image: Image.Image) -> Image.Image:
    """Return a picture with 256 colours, none of them far from the true one.

    Median cut, Pillow's default, would lose colours of small areas, such as the frame of a set.
    """
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    return image.quantize(256, method=method, kmeans=2, dither=dither)


def save(image: Image.Image, path: Path) -> None:
    """Write a picture as PNG with 256 colours, reduced if it is wider than a page can use."""
    image = image.convert("RGB")
    if image.width > WIDEST:
        height = round(image.height * WIDEST / image.width)
        image = image.resize((WIDEST, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    reduced(image).save(stream, format="PNG", optimize=True)
    data = stream.getvalue()
    if len(data) > LARGEST:
        raise ValueError(
            f"{path.name} has {len(data):,} bytes, more than the {LARGEST:,} a picture of the page "
            "may have; show less on it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)


if __name__ == "__main__":
    main()
