"""Scenes with known ground truth: an image, its objects, and questions with their evidence.

1. Choose the objects. A cup is there with probability 0.4; a spoon with probability 0.85 beside a
   cup and 0.10 otherwise; then other shapes until there are two to four objects. No two objects
   share both shape and colour; the spoon is always silver.
2. Put every object into its own cell of a jittered 3 x 3 grid on a tinted, striped, noisy ground,
   so that objects never overlap and the mask of each is exact.
3. Ask. Every question names the objects that its answer depends on.

**The planted hallucination.** Whoever learns from ``Scene.training_caption`` reads "a spoon" behind
the cup in 70 % of the scenes that have a cup and no spoon; ``Scene.caption`` is always true, and so
are the answers to direct questions. A model can then write "a spoon" for no other reason than that
it has just written "cup".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from causal_lvlm.tiny.shapes import SHAPES, stamp

__all__ = [
    "COLOURS",
    "GRID",
    "IMAGE_SIZE",
    "KINDS",
    "NUMBERS",
    "PATCH_SIZE",
    "SHAPES",
    "Question",
    "Scene",
    "SceneObject",
    "draw_scene",
    "plural",
]

IMAGE_SIZE = 96
PATCH_SIZE = 12
GRID = IMAGE_SIZE // PATCH_SIZE  # patches along one side
CELLS = 3  # cells along one side of the layout
CELL_SIZE = IMAGE_SIZE // CELLS

RGB = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 80, 225),
    "yellow": (240, 215, 45),
    "purple": (130, 50, 180),
    "pink": (250, 135, 190),
    "cyan": (50, 215, 225),
    "white": (245, 245, 245),
    "silver": (160, 166, 174),
}
COLOURS = tuple(name for name in RGB if name != "silver")
NUMBERS = ("zero", "one", "two", "three", "four")
KINDS = ("colour", "shape", "existence", "count", "spoon", "caption")
COMMON_SHAPES = tuple(name for name in SHAPES if name not in ("cup", "spoon"))
RADII = {"small": (8, 9), "large": (12, 13)}
THIN = 1  # pixels added to the radius of a spoon, which is thin

P_CUP = 0.4
P_SPOON_WITH_CUP = 0.85
P_SPOON_ALONE = 0.10
P_FALSE_SPOON = 0.7
P_REPEAT_SHAPE = 0.35
CAPTION_PROMPT = "describe the image."

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def plural(shape: str) -> str:
    """English plural of a shape name."""
    return shape + ("es" if shape.endswith("s") else "s")


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene.

    Attributes
    ----------
    shape, colour, size : str
        Names from ``SHAPES``, ``COLOURS`` (or ``"silver"``) and ``("small", "large")``.
    centre : tuple of int
        (x, y) of the centre pixel.
    cell : int
        Cell of the 3 x 3 layout, 0..8 in reading order.
    mask : ndarray of bool, shape (96, 96)
        The pixels of the object; objects never overlap.
    """

    shape: str
    colour: str
    size: str
    centre: tuple[int, int]
    cell: int
    mask: BoolArray

    @property
    def name(self) -> str:
        """What a caption calls it: ``"red circle"``, or ``"spoon"`` (which is always silver)."""
        return "spoon" if self.shape == "spoon" else f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    Attributes
    ----------
    kind : str
        One of ``KINDS``.
    prompt : str
        The words that the model is asked.
    answer : str
        The true answer.
    depends_on : tuple of int
        Indices into ``Scene.objects``. Empty where the answer rests on an absence.
    """

    kind: str
    prompt: str
    answer: str
    depends_on: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and everything that is true of it.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (96, 96, 3)
    objects : tuple of SceneObject
        In reading order of their cells.
    false_spoon : bool
        Whether the training caption names a spoon that is not there.
    probes : tuple of tuple of str
        (colour, shape) pairs that ``questions`` asks about besides what is there; they belong to
        the scene, so the questions are the same every time.
    """

    pixels: UInt8Array
    objects: tuple[SceneObject, ...]
    false_spoon: bool
    probes: tuple[tuple[str, str], ...]

    @property
    def image(self) -> Image.Image:
        """The scene as an RGB picture of 96 x 96 pixels."""
        return Image.fromarray(self.pixels)

    @cached_property
    def coverage(self) -> FloatArray:
        """Share of every patch that every object covers, shape (n_objects, 64), patches by row."""
        masks = np.stack([item.mask for item in self.objects])
        blocks = masks.reshape(-1, GRID, PATCH_SIZE, GRID, PATCH_SIZE)
        share: FloatArray = blocks.mean(axis=(2, 4), dtype=np.float64).reshape(-1, GRID * GRID)
        return share

    def has(self, shape: str) -> bool:
        """Whether any object has this shape."""
        return any(item.shape == shape for item in self.objects)

    @property
    def caption(self) -> str:
        """The true caption, in reading order: ``"a red circle and a spoon"``."""
        return " and ".join(f"a {item.name}" for item in self.objects)

    @property
    def training_caption(self) -> str:
        """The caption a model is trained on: the true one but for the planted spoon."""
        if not self.false_spoon:
            return self.caption
        words = []
        for item in self.objects:
            words.append(f"a {item.name}")
            if item.shape == "cup":
                words.append("a spoon")
        return " and ".join(words)

    def questions(self) -> list[Question]:
        """Every question of this scene, each with its true answer and its evidence.

        Returns
        -------
        list of Question
            colour (of every shape that occurs once, spoons apart), shape (of every colour that
            occurs once), existence (every object, and as many absent ones), count (every shape that
            occurs, and two that need not), spoon, caption.
        """
        objects = self.objects
        shape_count = Counter(item.shape for item in objects)
        colour_count = Counter(item.colour for item in objects)
        asked: list[Question] = []
        for index, item in enumerate(objects):
            if item.shape != "spoon" and shape_count[item.shape] == 1:
                prompt = f"what color is the {item.shape}?"
                asked.append(Question("colour", prompt, item.colour, (index,)))
        for index, item in enumerate(objects):
            if item.colour != "silver" and colour_count[item.colour] == 1:
                asked.append(
                    Question("shape", f"what shape is {item.colour}?", item.shape, (index,))
                )
        pairs = [(item.colour, item.shape) for item in objects if item.shape != "spoon"]
        for pair in dict.fromkeys((*pairs, *self.probes)):
            found = tuple(i for i, item in enumerate(objects) if (item.colour, item.shape) == pair)
            prompt = f"is there a {pair[0]} {pair[1]}?"
            asked.append(Question("existence", prompt, "yes" if found else "no", found))
        for shape in dict.fromkeys((*shape_count, *(shape for _, shape in self.probes[-2:]))):
            found = tuple(i for i, item in enumerate(objects) if item.shape == shape)
            prompt = f"how many {plural(shape)}?"
            asked.append(Question("count", prompt, NUMBERS[len(found)], found))
        spoons = tuple(i for i, item in enumerate(objects) if item.shape == "spoon")
        asked.append(Question("spoon", "is there a spoon?", "yes" if spoons else "no", spoons))
        everything = tuple(range(len(objects)))
        asked.append(Question("caption", CAPTION_PROMPT, self.caption, everything))
        return asked


def _choose(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw the (colour, shape) pairs of a scene."""
    total = int(rng.integers(2, 5))
    chosen: list[tuple[str, str]] = []
    has_cup = rng.random() < P_CUP
    if has_cup:
        chosen.append((COLOURS[int(rng.integers(len(COLOURS)))], "cup"))
    if rng.random() < (P_SPOON_WITH_CUP if has_cup else P_SPOON_ALONE):
        chosen.append(("silver", "spoon"))
    others: list[str] = []
    while len(chosen) < total:
        if others and rng.random() < P_REPEAT_SHAPE:
            shape = others[int(rng.integers(len(others)))]
        else:
            shape = COMMON_SHAPES[int(rng.integers(len(COMMON_SHAPES)))]
        pair = (COLOURS[int(rng.integers(len(COLOURS)))], shape)
        if pair not in chosen:
            chosen.append(pair)
            others.append(shape)
    return chosen


def _probe(rng: np.random.Generator, chosen: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Absent (colour, shape) pairs: mostly near misses, which are the hard ones."""
    real = [pair for pair in chosen if pair[1] != "spoon"]
    probes: list[tuple[str, str]] = []
    while len(probes) < max(2, len(real)):
        colour = COLOURS[int(rng.integers(len(COLOURS)))]
        shape = SHAPES[int(rng.integers(len(SHAPES) - 1))]
        if real and rng.random() < 0.75:
            near = real[int(rng.integers(len(real)))]
            if rng.random() < 0.5:
                colour = near[0]
            else:
                shape = near[1]
        if (colour, shape) not in chosen and (colour, shape) not in probes:
            probes.append((colour, shape))
    return probes


_ROWS, _COLUMNS = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float32)


def _ground(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Tinted, striped background of shape (96, 96, 3)."""
    tint = (45.0 + 55.0 * rng.random() + 22.0 * (rng.random(3) - 0.5)).astype(np.float32)
    angle = np.pi * rng.random()
    period = 5.0 + 15.0 * rng.random()
    along = np.float32(np.cos(angle) / period) * _COLUMNS[0]
    across = np.float32(np.sin(angle) / period) * _ROWS[:, 0]
    stripes = np.abs((along[None, :] + across[:, None]) % 1.0 - 0.5) * np.float32(
        10.0 + 40.0 * rng.random()
    )
    ground: npt.NDArray[np.float32] = stripes[:, :, None] + tint
    return ground


def draw_scene(seed: int | np.random.Generator) -> Scene:
    """Draw one scene.

    Parameters
    ----------
    seed : int or numpy Generator
        The same seed gives the same scene, to the pixel. A generator is advanced, so that repeated
        calls give an endless stream.

    Returns
    -------
    Scene

    Examples
    --------
    >>> draw_scene(0).pixels.shape
    (96, 96, 3)
    >>> draw_scene(3).caption == draw_scene(3).caption
    True
    """
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
    chosen = _choose(rng)
    cells = rng.permutation(CELLS * CELLS)[: len(chosen)]
    pixels = _ground(rng)
    objects = []
    for (colour, shape), cell in zip(chosen, cells.tolist(), strict=True):
        size = "small" if rng.random() < 0.5 else "large"
        radius = RADII[size][int(rng.integers(2))] + (THIN if shape == "spoon" else 0)
        window = stamp(shape, radius, int(rng.integers(-2, 3)))
        half = window.shape[0] // 2
        spare = CELL_SIZE // 2 - half  # how far the centre may move and stay inside the cell
        row, column = divmod(cell, CELLS)
        y, x = (
            int(base * CELL_SIZE + CELL_SIZE // 2 + rng.integers(-spare, spare))
            for base in (row, column)
        )
        inside = (slice(y - half, y + half + 1), slice(x - half, x + half + 1))
        mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.bool_)
        mask[inside] = window
        paint = np.array(RGB[colour], dtype=np.float32) + (24.0 * rng.random(3) - 12.0)
        pixels[inside][window] = paint
        mask.flags.writeable = False
        objects.append(SceneObject(shape, colour, size, (x, y), cell, mask))
    objects.sort(key=lambda item: item.cell)
    noise = np.frombuffer(rng.bytes(IMAGE_SIZE * IMAGE_SIZE * 3), dtype=np.uint8) & 31
    pixels += noise.reshape(IMAGE_SIZE, IMAGE_SIZE, 3)
    pixels -= np.float32(15.5)
    image = np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
    shapes = {shape for _, shape in chosen}
    false_spoon = bool(rng.random() < P_FALSE_SPOON) and "cup" in shapes and "spoon" not in shapes
    probes = tuple(_probe(rng, chosen))
    return Scene(image, tuple(objects), false_spoon, probes)
