"""Turn token ids into a `TokenLayout`: texts, modality, words, and image grids.

1. Prompt: the text with its image tokens expanded is tokenized with character offsets. A token is
   ``image`` by its id, ``special`` if its id is a special one or it lies outside the person's own
   words, else ``prompt``.
2. Answer: every token is ``generated``, except special ones (end of sequence).
3. Words: text is cut into runs of letters and digits and single other characters; tokens that
   begin in the same run share a word number, which sub-word tokenizers need.
4. Each tile of the image becomes an `ImageGrid` over the next image positions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.geometry import Cells
from causal_lvlm.lvlm.prompts import Prompt
from causal_lvlm.tokens import ImageGrid, TokenLayout

__all__ = ["build_layout", "token_text"]

_SPACE_MARKS = ("▁", "Ġ")  # how sentencepiece and byte-level tokenizers write a space
_RUN = re.compile(r"[\w\ufffd]+|[^\w\s\ufffd]")


def token_text(tokenizer: Any, token_id: int) -> str:
    """Return a token as a person would read it, with the leading space it carries, if any."""
    text = str(tokenizer.decode([int(token_id)], clean_up_tokenization_spaces=False))
    raw = tokenizer.convert_ids_to_tokens(int(token_id))
    raw = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    if raw.startswith(_SPACE_MARKS) and not text.startswith(" "):
        return " " + text
    return text or raw


def build_layout(
    tokenizer: Any,
    token_ids: Sequence[int],
    n_prompt: int,
    prompt: Prompt,
    *,
    expanded: str,
    placeholder: str,
    image_token_id: int,
    images: Sequence[tuple[Cells, tuple[int, int]]],
) -> TokenLayout:
    """Describe every position of a sequence.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    token_ids : sequence of int, length T
        Prompt (image tokens expanded) and answer.
    n_prompt : int
        Number of prompt tokens.
    prompt : Prompt
        Text before expansion.
    expanded : str
        Text after expansion, as it was tokenized.
    placeholder : str
    image_token_id : int
    images : sequence of (Cells, (width, height))
        Cells and original size of each image, in the order of the sequence.

    Returns
    -------
    TokenLayout

    Raises
    ------
    UnsupportedModelError
        If the number of image tokens is not that of the cells.
    """
    ids = [int(i) for i in token_ids]
    special = set(tokenizer.all_special_ids)
    image_positions = [p for p, i in enumerate(ids[:n_prompt]) if i == image_token_id]
    expected = sum(cells.n_tokens for cells, _ in images)
    if len(image_positions) != expected:
        raise UnsupportedModelError(
            f"the prompt holds {len(image_positions)} image tokens where the geometry knows "
            f"{expected}; this processor is not supported"
        )
    grids, breaks = _grids(images, image_positions)
    shown = placeholder or "<image>"
    texts = [shown if i == image_token_id else token_text(tokenizer, i) for i in ids]
    spans = _prompt_spans(tokenizer, ids[:n_prompt], expanded)
    own = _expanded_words(prompt, placeholder, expanded)
    modality: list[str] = []
    for position, token_id in enumerate(ids):
        if position < n_prompt and token_id == image_token_id:
            modality.append("special" if position in breaks else "image")
        elif token_id in special:
            modality.append("special")
        elif position >= n_prompt:
            modality.append("generated")
        else:
            modality.append("prompt" if _inside(spans[position], own) else "special")
    words = _words_of_prompt(expanded, spans, modality)
    first = max(words, default=-1) + 1
    words += _words_of_answer(tokenizer, texts[n_prompt:], modality[n_prompt:], first)
    return TokenLayout(
        tokens=tuple(texts),
        token_ids=np.array(ids),
        modality=np.array(modality),
        grids=tuple(grids),
        words=np.array(words),
        n_prompt=n_prompt,
    )


def _grids(
    images: Sequence[tuple[Cells, tuple[int, int]]], image_positions: Sequence[int]
) -> tuple[list[ImageGrid], set[int]]:
    """Return the grids, and positions of image tokens that are mere line breaks between cells."""
    grids: list[ImageGrid] = []
    breaks: set[int] = set()
    start = 0
    for number, (cells, size) in enumerate(images):
        positions = np.array(image_positions[start : start + cells.n_tokens], dtype=np.int64)
        start += cells.n_tokens
        used = np.zeros(cells.n_tokens, dtype=bool)
        for index, (tile, offsets) in enumerate(zip(cells.tiles, cells.offsets(), strict=True)):
            used[offsets] = True
            mine = positions[offsets]
            grids.append(ImageGrid(number, index, tile.rows, tile.cols, mine, tile.boxes, size))
        if cells.has_grid:
            breaks.update(positions[~used].tolist())
    return grids, breaks


def _expanded_words(prompt: Prompt, placeholder: str, expanded: str) -> list[tuple[int, int]]:
    """Move the spans of the person's words to where they are once image tokens are expanded."""
    pieces = prompt.text.split(placeholder) if placeholder else [prompt.text]
    moved: list[tuple[int, int]] = []
    begin = cursor = 0
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        at = expanded.rfind(piece) if last and number else expanded.find(piece, cursor)
        if at < 0:  # the processor rewrote the text
            at = expanded.find(piece.strip(), cursor) - (len(piece) - len(piece.lstrip()))
        for start, stop in prompt.words:
            first, end = max(start, begin), min(stop, begin + len(piece))
            if first < end and at >= 0:
                moved.append((first - begin + at, end - begin + at))
        cursor = max(at, 0) + len(piece)
        begin += len(piece) + len(placeholder)
    return moved


def _prompt_spans(tokenizer: Any, ids: list[int], expanded: str) -> list[tuple[int, int] | None]:
    """Return the character span of each prompt token in the expanded text, None where unknown."""
    for add_special in (True, False):
        try:
            encoded = tokenizer(
                expanded, add_special_tokens=add_special, return_offsets_mapping=True
            )
        except NotImplementedError:  # tokenizers written in Python know no offsets
            break
        found = list(encoded["input_ids"])
        before = len(ids) - len(found)  # image tokens put before the text were not part of it
        if before >= 0 and ids[before:] == found:
            offsets = encoded["offset_mapping"]
            return [None] * before + [(int(a), int(b)) if b > a else None for a, b in offsets]
    return _searched_spans(tokenizer, ids, expanded)


def _searched_spans(tokenizer: Any, ids: list[int], expanded: str) -> list[tuple[int, int] | None]:
    """Find each token's text from left to right; for tokenizers without offsets."""
    folded, cursor = expanded.casefold(), 0
    spans: list[tuple[int, int] | None] = []
    for token_id in ids:
        piece = token_text(tokenizer, token_id).strip().casefold()
        at = folded.find(piece, cursor) if piece else -1
        if at < 0:
            spans.append(None)
        else:
            cursor = at + len(piece)
            spans.append((at, cursor))
    return spans


def _inside(span: tuple[int, int] | None, own: Sequence[tuple[int, int]]) -> bool:
    return span is not None and any(span[0] < stop and start < span[1] for start, stop in own)


def _words_of_prompt(
    expanded: str, spans: Sequence[tuple[int, int] | None], modality: Sequence[str]
) -> list[int]:
    runs = [match.span() for match in _RUN.finditer(expanded)]
    starts = np.array([start for start, _ in runs] or [0])
    numbers: list[int] = []
    for position, span in enumerate(spans):
        if span is None or modality[position] not in ("prompt", "special"):
            numbers.append(-1)
            continue
        # A sub-word token may carry the space before it; its word begins after that.
        piece = expanded[slice(*span)]
        begin = span[0] + len(piece) - len(piece.lstrip())
        number = int(np.searchsorted(starts, begin, side="right")) - 1
        inside = bool(piece.strip()) and 0 <= number < len(runs) and begin < runs[number][1]
        numbers.append(number if inside else -1)
    return numbers


def _words_of_answer(
    tokenizer: Any, texts: Sequence[str], modality: Sequence[str], first: int
) -> list[int]:
    """Give the words of the answer numbers, on from the prompt's."""
    separator = " " if _is_word_level(tokenizer) else ""
    starts, joined = [], ""
    for text in texts:
        joined += separator
        starts.append(len(joined) + len(text) - len(text.lstrip()))
        joined += text
    run_starts = np.array([match.start() for match in _RUN.finditer(joined)] or [0])
    return [
        first + int(np.searchsorted(run_starts, start, side="right")) - 1
        if kind == "generated"
        else -1
        for start, kind in zip(starts, modality, strict=True)
    ]


def _is_word_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and type(backend.model).__name__ == "WordLevel"
