"""What the values of a saved run must be; `causal_lvlm.record` makes one object of them.

Explanations carry a run (``explanation.summary``), and traces are saved as it. Files of other kinds
refer to its positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from causal_lvlm.errors import OutputError
from causal_lvlm.fields import (
    Check,
    array,
    choice,
    damaged,
    flag,
    instance,
    many,
    maybe,
    record,
    rows,
    settings,
    table,
    text,
    whole,
)
from causal_lvlm.rasters import MAX_PICTURES, check_pictures
from causal_lvlm.results import SelfCheck
from causal_lvlm.tokens import MODALITIES, ImageGrid, Target, TokenLayout

__all__ = ["check_run", "check_summary", "layout_of", "pictures_of", "target_check"]

MAX_POSITIONS = 10_000_000
# Cells of padded images and tiles reach beyond the picture, but not by many times its size.
_BEYOND = 100.0


def target_check(layout: TokenLayout | None = None) -> Check:
    """Return the check of a `Target`; with the layout of a run, that it is in its answer."""
    read = instance(Target, positions=many(whole(0, MAX_POSITIONS), least=1),
                    occurrence=rows(whole(1), whole(1)))  # fmt: skip

    def check(value: Any, where: str) -> Target:
        target: Target = read(value, where)
        start, count = target.positions[0], len(target.positions)
        if target.positions != tuple(range(start, start + count)) or len(target.token_ids) != count:
            raise damaged(where, "must have consecutive positions, and a token id for each")
        if target.occurrence[0] > target.occurrence[1]:
            raise damaged(where, f"is number {target.occurrence[0]} of {target.occurrence[1]}")
        if layout is not None and not layout.n_prompt <= start <= len(layout) - count:
            raise damaged(where, "is not among the generated tokens of the run beside it")
        return target

    return check


def _grid_check(n_positions: int) -> Check:
    read = record(
        {
            "rows": whole(1, MAX_POSITIONS),
            "cols": whole(1, MAX_POSITIONS),
            "image": whole(0),
            "tile": whole(0),
            "positions": array(np.int64, None, low=0, high=n_positions - 1),
            "boxes": array(np.float64, None, 4),
            "image_size": rows(whole(1, MAX_POSITIONS), whole(1, MAX_POSITIONS)),
        },
        {"image", "tile"},
    )

    def check(value: Any, where: str) -> ImageGrid:
        grid = {"image": 0, "tile": 0, **read(value, where)}
        cells = grid["rows"] * grid["cols"]
        if len(grid["positions"]) != cells or len(grid["boxes"]) != cells:
            raise damaged(where, f"needs {cells} positions and boxes, one for each cell")
        left, top, right, bottom = grid["boxes"].T
        if (left > right).any() or (top > bottom).any():
            raise damaged(f"{where}.boxes", "must hold left <= right and top <= bottom")
        if np.abs(grid["boxes"]).max(initial=0.0) > _BEYOND * max(grid["image_size"]):
            raise damaged(f"{where}.boxes", "lies far outside of the image")
        return ImageGrid(**grid)

    return check


_ASKED = ("prompt", "answer", "image")
_RUN = record(
    {
        "prompt": text,
        "answer": text,
        "image": maybe(text),
        "more_images": many(text),
        "log_probs": array(np.float64, None, nan=True),
        "self_check": maybe(settings(passed=flag)),
        "model_id": maybe(text),
        "revision": maybe(text),
        "versions": table(text),
        "parameters": settings(remarks=many(text), geometry_remark=maybe(text)),
    },
    {"more_images", "log_probs", "self_check", "model_id", "revision", "versions", "parameters",
     *_ASKED},
)  # fmt: skip
_TOKENS = record({"tokens": many(text, least=1), "grids": many(lambda value, where: value)})


def layout_of(
    summary: Mapping[str, Any], where: str = "", *, whole_run: bool = True
) -> TokenLayout:
    """Return the layout of a saved run; see `check_summary`.

    Raises
    ------
    OutputError
        If a field is missing, or is not what it must be.
    """
    if not whole_run and isinstance(summary.get("tokens"), list):
        length = len(summary["tokens"])
        blank = {"token_ids": [0] * length, "words": [-1] * length, "n_prompt": 0, "grids": []}
        summary = {**blank, **summary}
    lead = f"{where}." if where else ""
    source = summary["layout"] if isinstance(summary.get("layout"), Mapping) else summary
    tokens = _TOKENS(source, where)["tokens"]
    length = len(tokens)
    n_images = (summary.get("image") is not None) + len(summary.get("more_images") or ())
    read = record(
        {
            "token_ids": array(np.int64, length, low=0, high=2**31),
            "modality": many(choice(*MODALITIES), length=length),
            "words": array(np.int64, length, low=-1, high=2**31),
            "n_prompt": whole(0, length),
            "grids": many(_grid_check(length)),
        }
    )
    fields = read(source, where)
    needed = max((g.image + 1 for g in fields["grids"]), default=0)
    if needed > n_images:
        raise OutputError(f"the saved trace has {n_images} of {needed} images")
    if len({(g.image, *g.image_size) for g in fields["grids"]}) > n_images:
        raise damaged(f"{lead}grids", "give one image two sizes")
    return TokenLayout(
        tokens=tokens,
        token_ids=fields["token_ids"],
        modality=np.array(fields["modality"], dtype=np.str_),
        grids=fields["grids"],
        words=fields["words"],
        n_prompt=fields["n_prompt"],
    )


def pictures_of(summary: Mapping[str, Any]) -> list[str]:
    """Return the pictures of a saved run as text, in the order of the prompt."""
    encoded = [summary.get("image"), *(summary.get("more_images") or ())]
    return [item for item in encoded if item is not None]


def check_run(value: Any, where: str = "") -> dict[str, Any]:
    """Check all of a saved run; return what `causal_lvlm.record.TraceRecord` is made of.

    Parameters
    ----------
    value : mapping
        As `TraceRecord.to_dict` writes it.
    where : str
        What errors call it.

    Returns
    -------
    dict
        Its fields but the pictures, which are checked and not decoded.

    Raises
    ------
    OutputError
        As `check_summary`; if anything is missing but the self-check, which may be null.
    """
    layout = check_summary(value, where)
    read = record(
        {
            "prompt": text, "answer": text, "model_id": text, "revision": maybe(text),
            "log_probs": array(np.float64, len(layout) - layout.n_prompt, nan=True),
            "self_check": maybe(instance(SelfCheck)), "versions": table(text),
            "parameters": settings(blocked=many(whole(0, len(layout) - 1))),
        }
    )  # fmt: skip
    return {"layout": layout, **read(value, where)}


def check_summary(value: Any, where: str = "", *, whole_run: bool = True) -> TokenLayout:
    """Check all that is there of a saved run; return its layout.

    Parameters
    ----------
    value : mapping
        As `Trace.to_dict` writes it.
    where : str
        What errors call it.
    whole_run : bool
        Whether more than tokens and modality must be there, without which an explanation cannot
        say its sentence.

    Raises
    ------
    OutputError
        If a field is missing, or is not what it must be; if a picture is none, or they are too
        many or too large.
    """
    run = _RUN(value, where)
    lead = f"{where}." if where else ""
    missing = [name for name in _ASKED if whole_run and name not in run]
    if missing:
        raise damaged(where or "the saved trace", f"has no {missing[0]!r}")
    if len(run.get("more_images", ())) > MAX_PICTURES:
        raise OutputError(f"{lead}more_images: at most {MAX_PICTURES} pictures are allowed")
    if run.get("image") is None and run.get("more_images"):
        raise damaged(f"{lead}image", "is missing, but there are more images")
    layout = layout_of(value, where, whole_run=whole_run)
    said = run.get("log_probs")
    if said is not None and len(said) != len(layout) - layout.n_prompt:
        raise damaged(f"{lead}log_probs", "must hold one number for each generated token")
    check_pictures(pictures_of(value), f"{lead}image")
    return layout
