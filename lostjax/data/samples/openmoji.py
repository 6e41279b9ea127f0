"""OpenMoji's colour pictograms with their captions, read from the npm package.

    npm install openmoji                  4,495 pictograms, as SVG, and annotations
    pip install 'lostjax[pictograms]'     resvg, which draws them, and Pillow

Nothing is downloaded. The pictograms are drawn when they are loaded (3 seconds at 32
pixels), by the same code on every machine: no font of the system is used.

Thousands of them are variants: a waving hand in six skin tones, a cook who is a person,
a man or a woman. `families` tells which are: split by it, or what is held out was
trained on but for its colour. A family's code is that of a pictogram without

    skin tones, gender signs, directions, joiners and variation selectors

and with the gendered persons replaced by the neutral one of their age.

OpenMoji is the open-source emoji and icon project of the HfG Schwaebisch Gmuend
(openmoji.org), licensed CC BY-SA 4.0.
"""

import importlib.util
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lostjax.errors import DataError, first_line

PLACES = (
    Path("node_modules/openmoji"),
    Path("~/node_modules/openmoji"),
    Path("/usr/local/lib/node_modules/openmoji"),
    Path("/usr/lib/node_modules/openmoji"),
)
"""Where `npm install` and `npm install --global` put the package."""

_DROPPED = frozenset(
    {
        *("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"),  # skin tones
        *("2640", "2642"),  # the signs of women and men
        *("27A1", "2B05"),  # facing right or left
        *("200D", "FE0F"),  # joiner, variation selector
    }
)
_NEUTRAL = {
    **{"1F468": "1F9D1", "1F469": "1F9D1"},  # man, woman: person
    **{"1F466": "1F9D2", "1F467": "1F9D2"},  # boy, girl: child
    **{"1F474": "1F9D3", "1F475": "1F9D3"},  # old man, old woman: older person
    **{"1F934": "1FAC5", "1F478": "1FAC5"},  # prince, princess: person with crown
    **{"1F385": "1F9D1-1F384", "1F936": "1F9D1-1F384"},  # Santa, Mrs. Claus: Mx Claus
    **{"1F46B": "1F9D1-1F91D-1F9D1", "1F46C": "1F9D1-1F91D-1F9D1"},  # holding hands
    "1F46D": "1F9D1-1F91D-1F9D1",
    "1F48F": "1F9D1-2764-1F48B-1F9D1",  # kiss
    "1F491": "1F9D1-2764-1F9D1",  # couple with heart
    "1F57A": "1F483",  # man dancing: woman dancing
    "1F46F": "1F9D1-1F430-1F9D1",  # people with bunny ears
    "1F93C": "1F9D1-1FAEF-1F9D1",  # people wrestling
}
_GENDERS = frozenset({"man", "woman", "male", "female"})


class Pictograms(NamedTuple):
    """Pictograms and what is known of each, in the package's order."""

    images: np.ndarray
    """(B, size, size, 3), float32 in [0, 1], on white."""
    codes: tuple[str, ...]
    """Code points in hexadecimal: `1F600`, `1F44B-1F3FB`."""
    families: tuple[str, ...]
    """A code that the variants of one pictogram share."""
    annotations: tuple[str, ...]
    """A few words: `grinning face`, `waving hand: light skin tone`."""
    tags: tuple[tuple[str, ...], ...]
    """Words and phrases, sorted; for most variants none."""
    groups: tuple[str, ...]
    """`smileys-emotion`, `animals-nature` and ten more."""
    subgroups: tuple[str, ...]
    """`face-smiling`, `animal-mammal` and about a hundred more."""
    licence: str = "CC BY-SA 4.0"
    source: str = "OpenMoji, npm package openmoji"


def load_openmoji(directory: str | Path | None = None, *, size: int = 32) -> Pictograms:
    """Load OpenMoji's colour pictograms, drawn at a small size.

    Args:
      directory: the npm package `openmoji`, which has color/svg and data/openmoji.json;
        None for the first of `PLACES` that there is.
      size: width and height in pixels, from 4 to 512.

    Returns:
      All pictograms: 4,495 in version 17.

    Raises:
      DataError: the package or the library that draws is not installed, or a file is
        missing or damaged.
      ValueError: the size lies outside its range.
    """
    if not 4 <= size <= 512:
        raise ValueError(f"size={size}: must lie in [4, 512]")
    root = _find() if directory is None else Path(directory)
    entries = _read_entries(root / "data" / "openmoji.json")
    if not all(map(importlib.util.find_spec, ("resvg_py", "PIL"))):
        raise DataError(
            "the pictograms are drawn by resvg: pip install 'lostjax[pictograms]'"
        )
    images = [
        _draw(root / "color" / "svg" / f"{entry['hexcode']}.svg", size=size)
        for entry in entries
    ]
    return Pictograms(
        images=np.stack(images).astype(np.float32) / np.float32(255),
        codes=tuple(entry["hexcode"] for entry in entries),
        families=tuple(map(_find_family, entries)),
        annotations=tuple(entry["annotation"] for entry in entries),
        tags=tuple(_split_tags(entry) for entry in entries),
        groups=tuple(entry["group"] for entry in entries),
        subgroups=tuple(entry["subgroups"] for entry in entries),
    )


def find_family(code: str) -> str:
    """Return the code that all variants of a pictogram share.

    Args:
      code: code points in hexadecimal, joined by `-`.

    Returns:
      The code without skin tones, genders and directions.

    Example:
        find_family("1F469-1F3FD-200D-1F373")  # a woman cook: "1F9D1-1F373", a cook
    """
    parts = (part for part in code.split("-") if part not in _DROPPED)
    # A sign that is a pictogram of its own, such as that of women, stays.
    return "-".join(_NEUTRAL.get(part, part) for part in parts) or code


def _find_family(entry: dict[str, Any]) -> str:
    """Return an entry's family; OpenMoji's own pictograms tell by their words alone."""
    if entry["group"] != "extras-openmoji":
        return find_family(entry["hexcode"])
    words = entry["annotation"].split()
    kept = [word for word in words if word not in _GENDERS]
    return " ".join(kept) if kept and kept != words else entry["hexcode"]


def _find() -> Path:
    for place in PLACES:
        if (place.expanduser() / "data" / "openmoji.json").is_file():
            return place.expanduser()
    raise DataError(
        "the pictograms come with the npm package openmoji: npm install openmoji, or "
        "pass its directory"
    )


def _read_entries(path: Path) -> list[dict[str, Any]]:
    fields = ("hexcode", "annotation", "tags", "openmoji_tags", "group", "subgroups")
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: is damaged: it is not JSON") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: must be a list of pictograms")
    for entry in entries:
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(field), str) for field in fields
        ):
            raise DataError(f"{path}: a pictogram lacks one of {', '.join(fields)}")
        # It becomes the name of a file.
        if not entry["hexcode"].replace("-", "").isalnum():
            raise DataError(f"{path}: {entry['hexcode'][:40]!a} is no code")
    return entries


def _draw(path: Path, *, size: int) -> np.ndarray:
    import resvg_py
    from PIL import Image

    try:
        png = resvg_py.svg_to_bytes(
            svg_string=path.read_text(encoding="utf-8"),
            width=size,
            height=size,
            background="white",
            # Other fonts would draw other pictures on another machine.
            skip_system_fonts=True,
        )
        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{path}: cannot be drawn: {reason}") from None
    if pixels.shape != (size, size, 3):
        raise DataError(f"{path}: is drawn as {pixels.shape}, must be a square")
    return pixels


def _split_tags(entry: dict[str, Any]) -> tuple[str, ...]:
    both = f"{entry['tags']},{entry['openmoji_tags']}".split(",")
    return tuple(sorted({tag.strip() for tag in both} - {""}))
