"""What ``causal-lvlm explain`` is given; refused before a model is loaded if it cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causal_lvlm.errors import ImageError, TargetError

if TYPE_CHECKING:
    from causal_lvlm.lvlm.images import ImageLike

__all__ = ["check_options", "pictures_and_prompt"]


def pictures_and_prompt(given_words: list[str]) -> tuple[list[Path], Sequence[ImageLike], str]:
    """Return the paths of the pictures, the pictures, and the prompt, which comes last."""
    *names, prompt = given_words
    from causal_lvlm.lvlm.images import image_path, open_images
    from causal_lvlm.lvlm.prompts import check_prompt

    check_prompt(prompt)
    paths = [
        image_path(name) if ":" in name and not _is_file(name) else Path(name) for name in names
    ]
    if not paths and (Path(prompt).suffix.lower() in _PICTURES or _is_file(prompt)):
        raise ValueError(
            f"{prompt!r} is a file and there is no question; give one behind the picture, in quotes"
        )
    missing = [str(path) for path in paths if not _is_file(str(path))]
    if missing:  # said before a model is loaded, which may take minutes
        raise ImageError(f"no such picture file: {', '.join(missing)}; the question comes last")
    return paths, open_images(paths), prompt  # what is no picture is refused as early


_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a long question is no valid name
        return False


def check_options(options: dict[str, Any], methods: list[str], targets: list[str] | None) -> None:
    """Refuse what the library would refuse, before a model is loaded, which may take minutes."""
    from causal_lvlm.explanation.explain import check_explain_options
    from causal_lvlm.methods.registry import method_name

    check_explain_options(options)
    for name in methods:
        method_name(name)
    for text in targets or ():
        if not text.strip():
            raise TargetError("--target '' names no word; name a word of the answer, or an index")
