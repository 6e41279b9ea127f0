"""Letters in the faces of matplotlib's fonts: many classes with a few examples each.

    load_glyphs     Latin, Greek and Cyrillic letters, in 16 faces each

As Omniglot's characters (Lake et al., "Human-level concept learning through
probabilistic program induction", 2015), but drawn by type designers: DejaVu Sans, Sans
Mono and Serif and STIX, each upright, slanted, bold and both. matplotlib brings the
fonts, and Pillow draws them; neither downloads anything.

Letters with accents are left out, and so is a letter that looks like an earlier one in
most faces, as the Greek capital alpha and the Latin A do. Those that differ by case
alone often look alike: split by `str.casefold` of their names.
"""

import importlib.util
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lostjax.data.samples.classes import Samples
from lostjax.errors import DataError, first_line

FACES = (
    *(f"DejaVuSans{kind}" for kind in ("", "-Oblique", "-Bold", "-BoldOblique")),
    *(f"DejaVuSansMono{kind}" for kind in ("", "-Oblique", "-Bold", "-BoldOblique")),
    *(f"DejaVuSerif{kind}" for kind in ("", "-Italic", "-Bold", "-BoldItalic")),
    *(f"STIXGeneral{kind}" for kind in ("", "Italic", "Bol", "BolIta")),
)
"""Files of matplotlib's fonts, without their ending."""

BLOCKS = ((0x41, 0x180), (0x370, 0x400), (0x400, 0x460))
"""Code points: Latin and its first extension, Greek, and the Cyrillic of today."""

ALIKE = 0.01
"""Mean difference of pixels up to which two drawings look the same."""


def load_glyphs(*, size: int = 28) -> Samples:
    """Draw letters in every face of matplotlib's text fonts.

    Args:
      size: width and height in pixels, from 8 to 256.

    Returns:
      The samples, letter by letter in the order of Unicode and face by face: white on
      black, float32 in [0, 1], (B, size, size). `names` are the letters: 170 at 28
      pixels, fewer at smaller sizes, where more look alike.

    Raises:
      DataError: matplotlib or Pillow is not installed, or a font is damaged.
      ValueError: the size lies outside its range.
    """
    if not 8 <= size <= 256:
        raise ValueError(f"size={size}: must lie in [8, 256]")
    paths = _find_fonts()
    try:
        letters = _shared_letters(paths)
        drawn = np.stack([_draw(path, letters, size=size) for path in paths], axis=1)
    # A damaged font fails in any way that its readers fail.
    except Exception as error:
        raise DataError(
            f"{paths[0].parent}: a font cannot be read: {first_line(error)}; reinstall "
            "matplotlib"
        ) from None
    kept = _distinct(drawn)
    images = drawn[kept].reshape(-1, size, size)
    return Samples(
        inputs=images.astype(np.float32) / np.float32(255),
        labels=np.repeat(np.arange(len(kept)), len(paths)).astype(np.int32),
        names=tuple(letters[place] for place in kept),
        licence="Bitstream Vera and public domain (DejaVu), STIX fonts licence",
        source="matplotlib, mpl-data/fonts/ttf",
    )


def _find_fonts() -> list[Path]:
    names = ("matplotlib", "PIL", "fontTools")
    packages = [importlib.util.find_spec(name) for name in names]
    if not all(packages):
        raise DataError(
            "the glyphs are drawn from matplotlib's fonts: pip install matplotlib"
        )
    places = packages[0].submodule_search_locations if packages[0] else None
    root = Path((places or [""])[0]) / "mpl-data" / "fonts" / "ttf"
    paths = [root / f"{face}.ttf" for face in FACES]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: is missing; reinstall matplotlib")
    return paths


def _shared_letters(paths: Sequence[Path]) -> list[str]:
    """List the letters without accents that every face has."""
    from fontTools.ttLib import TTFont

    points = {point for first, end in BLOCKS for point in range(first, end)}
    for path in paths:
        with TTFont(path, lazy=True) as font:
            points &= font.getBestCmap().keys()
    return [
        chr(point)
        for point in sorted(points)
        if unicodedata.category(chr(point)) in ("Lu", "Ll")
        and not unicodedata.decomposition(chr(point))
    ]


def _draw(path: Path, letters: Sequence[str], *, size: int) -> np.ndarray:
    """Draw letters of one face about the middle, all at one size of type."""
    from PIL import Image, ImageDraw, ImageFont

    font: Any = ImageFont.truetype(path, size=round(0.7 * size))
    images = []
    for letter in letters:
        image = Image.new("L", (size, size))
        ImageDraw.Draw(image).text(
            (size / 2, 0.72 * size), letter, fill=255, font=font, anchor="ms"
        )
        images.append(np.asarray(image))
    return np.stack(images)


def _distinct(drawn_LFHW: np.ndarray) -> list[int]:
    """Choose the letters that do not look like an earlier one in most faces."""
    pixels = drawn_LFHW.reshape(*drawn_LFHW.shape[:2], -1).astype(np.float32) / 255
    kept: list[int] = []
    for letter, image in enumerate(pixels):
        difference = np.abs(pixels[kept] - image).mean(axis=-1)
        if not (np.mean(difference < ALIKE, axis=-1) > 0.5).any():
            kept.append(letter)
    return kept
