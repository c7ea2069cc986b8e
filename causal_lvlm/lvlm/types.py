"""What happens to every image-text type that transformers lists; the page of it in docs."""

from __future__ import annotations

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from causal_lvlm.errors import UnsupportedModelError
from causal_lvlm.lvlm.families import FAMILIES, REFUSED, family_of
from causal_lvlm.lvlm.tiles import cross_attended, no_grid

__all__ = ["types_page", "types_table"]

# What a checkpoint needs beside transformers, torch and Pillow; the rest runs with these three.
_NEEDS = {
    "fast_vlm": "timm (its vision tower)",
    "gemma3n": "timm (its vision tower)",
    "perception_lm": "timm (its vision tower) and torchvision (its image processor)",
    **dict.fromkeys(
        "cohere2_vision gemma4_unified inkling2 inkling_mm_model kimi_k25 lfm2_vl llama4 "
        "minicpm_ocr minimax_m3_vl molmo2 muse_glimmer muse_spark nemotron_h_omni step3p7 "
        "unlimited_ocr".split(),
        "torchvision (its image processor)",
    ),
}
_INTRODUCTION = """# Which models can be explained

This page is printed by `causal-lvlm models --types` (here with transformers {version}); a test
compares the two.

- **entry**: a family of the table (`causal-lvlm models`). Tests paint cells of a tiny random
  model of it, and compare its attention, its masking and its inputs with the model's own.
- **no grid**: an entry, too, but image tokens belong to no place in the image; they are
  explained as tokens, and every sentence says so.
- **guessed**: no entry. What the image processor does is read off a coordinate ramp, and the
  model itself is asked to confirm it: cells are painted, and the cell's own token must change
  most. Where it does not, or nothing can be read, there is no grid. Either is said in the trace
  (`trace.parameters["geometry_remark"]`), the report and every sentence. No test runs these
  types; one whose language model cannot be captured is refused when it is first run.
- **refused**: when it is loaded, with the reason.

## Add a family in ten lines

A type without an entry, or one that you know better, is described by a `Family`:

```python
import causal_lvlm as cl
from causal_lvlm.lvlm.tiles import patch_grid

mine = cl.Family(
    name="GLM-4.6V",
    model_types=("glm46v",),
    mapping="stretched, 2 x 2 patches merged",
    geometry=patch_grid,
    plain_frame="<|user|>{{placeholder}}{{prompt}}<|assistant|>",
)
lvlm = cl.load_model("the-checkpoint", family=mine)  # or (model, processor)
```

`geometry` gets a `causal_lvlm.lvlm.geometry.Site` (configuration, processor, size of the image,
what the processor returned) and returns `Cells`: tiles of rectangles in pixels of the original
image, in the order of the image tokens. `causal_lvlm.lvlm.tiles` holds those in use: `square`,
`letterbox`, `patch_grid`, `image_size_grid`, `canvas`, `row_column_tiles`, `ovis_tiles`,
`anyres`, `no_grid`. Your entry is painted, too: for every new size of image, once; where
painting does not confirm it, the self-check of the run fails and says so. `plain_frame` is used
where the processor has no chat template.

"""


def types_table() -> list[dict[str, str]]:
    """Return a row for every type of ``AutoModelForImageTextToText`` in this transformers.

    Returns
    -------
    list of dict
        ``type``, ``what`` (``"entry"``, ``"no grid"``, ``"guessed"`` or ``"refused"``), ``why``
        (family and mapping, or the reason), and ``needs`` (further packages, or nothing). Types of
        the table that this version lacks have ``what`` ``"not installed"``.
    """
    entries = {
        kind: [family for family in FAMILIES if kind in family.model_types]
        for kind in {kind for family in FAMILIES for kind in family.model_types}
    }
    rows = []
    for kind in sorted({*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *entries}):
        if kind not in CONFIG_MAPPING:
            what, why = "not installed", f"transformers {transformers.__version__} lacks it"
        elif kind in entries:
            placed = any(f.geometry not in (no_grid, cross_attended) for f in entries[kind])
            what = "entry" if placed else "no grid"
            why = "; or ".join(f"{family.name}: {family.mapping}" for family in entries[kind])
        else:
            what, why = _without_entry(kind)
        rows.append({"type": kind, "what": what, "why": why, "needs": _NEEDS.get(kind, "")})
    return rows


def _without_entry(kind: str) -> tuple[str, str]:
    if kind in REFUSED:
        return "refused", REFUSED[kind]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # some remark on what their own defaults lack
    try:
        family_of(CONFIG_MAPPING[kind]())
    except UnsupportedModelError:
        return "refused", "its configuration names no vision tower"
    finally:
        logging.set_verbosity(verbosity)
    return "guessed", "a grid that painting confirms, or no grid"


def types_page() -> str:
    """Return `types_table` as the Markdown page ``docs/families.md``."""
    lines = [
        "## All types",
        "",
        "| type | what happens | why, or how image tokens map to the image | needs |",
        "| --- | --- | --- | --- |",
        *(f"| `{r['type']}` | {r['what']} | {r['why']} | {r['needs']} |" for r in types_table()),
    ]
    return _INTRODUCTION.format(version=transformers.__version__) + "\n".join(lines) + "\n"
