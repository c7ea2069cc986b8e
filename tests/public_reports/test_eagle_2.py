"""EAGLE #2: moved to LLaVA-1.5, the attribution pointed to wrong places of the image.

Here the rectangle of every image token is where the model itself has it: a painted rectangle
changes its own token most, in pictures of any shape (LLaVA cuts what does not fit into a square).
"""

from __future__ import annotations

import pytest

from causal_lvlm.lvlm import LVLM
from causal_lvlm.lvlm.geometry import Cells
from causal_lvlm.lvlm.placing import painting_error, place
from tests.lvlm.helpers import noise_image
from tests.models import tiny_llava


@pytest.mark.parametrize("size", [(200, 120), (90, 200), (64, 64)], ids=str)
def test_a_painted_rectangle_changes_its_own_token_most(size):
    lvlm = LVLM(*tiny_llava(seed=5, image_size=96, patch=12))
    image, text = noise_image(size, seed=1), "USER: <image>\nwhat? ASSISTANT:"
    placed = place(lvlm, [image], text, lvlm.process([image], text).inputs)
    assert placed.source == "family" and placed.cells[0].n_tokens == 64
    painted, error = painting_error(lvlm, [image], text, placed.cells)
    assert painted >= 9 and not error
    # Rectangles of another token are noticed.
    (tile,) = placed.cells[0].tiles
    turned = Cells((type(tile)(tile.rows, tile.cols, tile.boxes[::-1].copy()),), 64)
    assert painting_error(lvlm, [image], text, (turned,))[1] > 0.5
