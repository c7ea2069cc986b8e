"""Read what ``causal-lvlm evaluate`` works on: every line is checked before any work starts.

DATA is

* a file of JSON lines, or a folder with ``items.jsonl``: one object per line, ``image`` (path from
  the file's folder, list of paths, or null), ``prompt``, and optionally ``target`` (word or phrase
  of the answer, index of a generated token, or ``[start, stop]``), ``boxes`` (``[[left, top, right,
  bottom], ...]`` in pixels of the first image: what the target is about) and ``id``;
* a folder of images, each with a file of the same name ending in ``.json`` (the same object without
  ``image``) or ``.txt`` (the prompt).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from causal_lvlm.checks import check_text, printable
from causal_lvlm.errors import DataError, ImageError

__all__ = ["PICTURES", "read_items"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FIELDS = ("image", "prompt", "target", "boxes", "id")
_Text: TypeAlias = "str | dict[str, Any] | DataError"
SHOWN = 20  # bad lines that an error names


def read_items(data: Path, prompt: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the items by id, in order.

    Parameters
    ----------
    data : pathlib.Path
        File or folder, see above.
    prompt : str, optional
        For items without one.

    Returns
    -------
    dict of str to dict
        ``images`` (absolute paths), ``prompt``, ``target`` (None, str, int or [start, stop]) and
        ``boxes`` (None or list) of each item. An item without ``id`` is called by its line or by
        its file.

    Raises
    ------
    DataError
        If there is no item, or any line is bad: the message names every one (at most 20) and what
        is wrong with it.
    """
    items: dict[str, dict[str, Any]] = {}
    first: dict[str, str] = {}
    bad: list[str] = []
    for where, name, text, folder in _sources(data):
        try:
            if isinstance(text, DataError):
                raise text
            value = _parsed(text) if isinstance(text, str) else text
            key = str(value.get("id", printable(name)))
            check_text("id", key, DataError)
            if key in first:
                raise DataError(f"id {key!r} is also that of {first[key]}")
            first[key] = where
            items[key] = _item(value, folder, prompt)
        except DataError as error:
            bad.append(f"{where}: {error}")
    if bad:
        more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        raise DataError(f"{data}: nothing was done; " + "; ".join(bad[:SHOWN] + more))
    if not items:
        raise DataError(
            f"{data} holds no item: give JSON lines, a folder with items.jsonl, or a folder of "
            f"images ({', '.join(PICTURES)}) with a .txt or .json file of the same name"
        )
    return items


def _sources(data: Path) -> Iterator[tuple[str, str, _Text, Path]]:
    """Yield (where, name, text or object, folder of its images)."""
    if data.is_dir() and not (data / "items.jsonl").is_file():
        yield from _folder(data)
        return
    file = data / "items.jsonl" if data.is_dir() else data
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read items from {str(file)!r}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", f"line {number}", line, file.parent


def _folder(data: Path) -> Iterator[tuple[str, str, _Text, Path]]:
    for path in sorted(data.iterdir()):
        if path.suffix.lower() not in PICTURES:
            continue
        value: dict[str, Any] = {}
        sidecar = path.with_suffix(".json")
        if sidecar.is_file():
            try:
                value = _parsed(sidecar.read_text(encoding="utf-8-sig"))
            except (DataError, OSError, UnicodeDecodeError) as error:
                yield sidecar.name, path.name, DataError(str(error)), data
                continue
        elif path.with_suffix(".txt").is_file():
            text = path.with_suffix(".txt").read_text(encoding="utf-8-sig", errors="replace")
            value = {"prompt": text.strip()}
        yield path.name, path.name, {"image": path.name, **value}, data


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"no JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, 100,000 brackets
        raise DataError(f"no JSON that can be read ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"not an object with image and prompt but {type(value).__name__}")
    return value


def _item(value: dict[str, Any], folder: Path, prompt: str | None) -> dict[str, Any]:
    unknown = sorted(set(value) - set(FIELDS))
    if unknown:
        raise DataError(f"unknown field {', '.join(unknown)}; known are {', '.join(FIELDS)}")
    asked = value.get("prompt", prompt)
    if not isinstance(asked, str) or not asked.strip():
        raise DataError(
            "no prompt (a text that is not empty; --prompt gives one to all without)"
            if asked is None
            else f"prompt must be a text that is not empty, got {asked!r}"
        )
    check_text("prompt", asked, DataError)
    if "image" not in value:
        raise DataError("no image (a path, a list of paths, or null for none)")
    given = value["image"]
    names = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"image must be a path, a list of paths or null, got {given!r}")
    return {
        "images": [_image(folder, name) for name in names],
        "prompt": asked,
        "target": _target(value.get("target")),
        "boxes": _boxes(value.get("boxes"), bool(names)),
    }


def _image(folder: Path, name: str) -> str:
    from causal_lvlm.lvlm.images import image_path

    path = folder / name
    try:
        there = path.is_file()
        if not there and ":" in name:  # an address
            path, there = image_path(name), True
    except (ImageError, OSError) as error:  # OSError: longer than a name may be
        raise DataError(str(error)) from error
    if not there:
        raise DataError(f"there is no image {str(path)!r}")
    if path.suffix.lower() not in PICTURES:
        raise DataError(f"{path.name!r} is no image (known: {', '.join(PICTURES)})")
    return str(path.resolve())


def _target(value: Any) -> Any:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.strip():
        check_text("target", value, DataError)
        return value
    if isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value):
        return value
    raise DataError(
        f"target must be a word or phrase of the answer, the index of a generated token or [start, "
        f"stop], got {value!r}"
    )


def _boxes(value: Any, has_image: bool) -> list[list[float]] | None:
    if value is None:
        return None
    if not has_image:
        raise DataError("boxes without an image")
    if not isinstance(value, list) or not value:
        raise DataError(f"boxes must be a list of [left, top, right, bottom], got {value!r}")
    for box in value:
        numbers = isinstance(box, list) and all(type(v) in (int, float) for v in box)
        if not numbers or len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise DataError(
                f"a box is [left, top, right, bottom] in pixels with left < right and top < "
                f"bottom, got {box!r}"
            )
    return [[float(v) for v in box] for box in value]
