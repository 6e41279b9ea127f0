"""Files of a text source: found by path, directory or glob, and read by their kind.

    .jsonl    one JSON object per line         .npy, .bin    token ids
    others    UTF-8 text, one document each

Of a directory, .txt and then .jsonl files are read; a line on standard error names the
others. Suffixes may be in capitals. Names that begin with a dot are not looked at: Macs
write ._NAME beside every NAME. Files of a kind are read in the order of their names. A
path that exists is always taken as a path, whatever characters it contains.
"""

import glob
import os
import stat
import sys
from functools import cache
from pathlib import Path

from lostjax.data.text.documents import Chain, JsonLines, TextDocuments, TextFiles
from lostjax.data.text.token_files import TokenFiles, open_tokens
from lostjax.data.text.unreadable import looks_like_text, name_some
from lostjax.errors import DataError, nearest_hint

_TOKEN_KINDS = frozenset({".npy", ".bin"})

_DIRECTORY_KINDS = frozenset({".txt", ".jsonl"})


def split_field(name: str) -> tuple[str, str | None]:
    """Split a name into a path and the field after #, or None."""
    if os.path.exists(name) or "#" not in name:
        return name, None
    path, _, field = name.rpartition("#")
    return path, field


def find_files(path: str, *, name: str) -> list[Path]:
    """Find the files of a path, a directory or a glob.

    Args:
      path: the path, without a field.
      name: the part as the user wrote it, for error messages.

    Returns:
      At least one file; several are sorted. Those of a directory are .txt and .jsonl,
      and not empty.

    Raises:
      DataError: if nothing is found, all of it is empty, or the directory is TFDS's.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "dataset_info.json")):
            raise DataError(f"{path}: a TFDS directory; write tfds:{path}")
        return _find_in_directory(path)
    if os.path.exists(path):
        return [Path(path)]
    if glob.has_magic(path):
        # Sort: glob returns the order of the file system.
        found = sorted(Path(p) for p in glob.glob(path, recursive=True))
        files = [p for p in found if p.is_file()]
        if not files:
            raise DataError(f"{path}: matches no file")
        return files
    raise DataError(f"{name}: no such file or source{_missing_hint(path)}")


def open_files(
    paths: list[Path], *, field: str | None, name: str
) -> TextDocuments | TokenFiles:
    """Open files of one kind as documents.

    Args:
      paths: at least one file.
      field: field of JSON objects; None for `text`.
      name: the part as the user wrote it, for error messages.

    Returns:
      The documents.

    Raises:
      DataError: if the files are of several kinds, empty or unreadable, or `field` is
        empty or names a field of other files than .jsonl.
    """
    kinds = {_kind(path) for path in paths}
    is_directory = os.path.isdir(os.path.expanduser(split_field(name)[0]))
    if len(kinds) > 1 and not is_directory:
        raise DataError(
            f"{name}: matches files of several kinds ({', '.join(sorted(kinds))}); "
            "pass each kind as a part: '*.txt,*.jsonl'"
        )
    if field is not None and "jsonl" not in kinds:
        raise DataError(f"{name}: #{field} names a field, but only .jsonl has fields")
    if field == "":
        raise DataError(f"{name}: the field after # is empty")
    try:
        odd = [p for p in paths if not stat.S_ISREG(p.stat().st_mode)]
        empty = not odd and all(map(_is_empty, paths))
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from error
    if odd:  # a pipe can be read only once, and a device may never end
        raise DataError(f"{name}: {odd[0]} is not a regular file")
    if empty:
        raise DataError(f"{name}: empty, contains no text")
    if kinds == {"tokens"}:
        for path in paths:
            open_tokens(path)
        return TokenFiles(tuple(paths))
    texts = TextFiles(tuple(path for path in paths if _kind(path) == "text"))
    lines = tuple(path for path in paths if _kind(path) == "jsonl")
    if not lines:
        return texts
    objects = JsonLines(lines, field or "text")
    return Chain((texts, objects)) if texts.paths else objects


def _find_in_directory(path: str) -> list[Path]:
    """Find the texts below a directory, and print which files are not read."""
    root = Path(path)
    # Sort: the order of a directory differs between file systems.
    found = sorted(
        p for p in root.rglob("*") if not _is_hidden(p, root) and p.is_file()
    )
    texts = [p for p in found if p.suffix.lower() in _DIRECTORY_KINDS]
    others = [p for p in found if p.suffix.lower() not in _DIRECTORY_KINDS]
    try:
        files = [p for p in texts if not _is_empty(p)]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    passed_over = f"passed over: {name_some(others, below=root)}" if others else ""
    if not texts:
        there = f"; {passed_over}{_glob_hint(path, others)}" if others else ""
        raise DataError(
            f"{path}: no .txt or .jsonl file in this directory or below it{there}"
        )
    if not files:
        raise DataError(f"{path}: its .txt and .jsonl files are empty")
    empty = [p for p in texts if p not in set(files)]
    if empty or others:
        line = f"{path}: {len(files)} .txt and .jsonl files are read"
        line += f"; empty: {name_some(empty, below=root)}" if empty else ""
        line += f"; {passed_over}{_glob_hint(path, others)}" if others else ""
        _print_once(line)
    return files


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _glob_hint(path: str, others: list[Path]) -> str:
    """Show how a kind that was passed over is read, if it looks like text."""
    kind = next((p.suffix for p in others[:100] if p.suffix and looks_like_text(p)), "")
    if not kind or kind in _TOKEN_KINDS:
        return ""
    return f" (to read {kind} as text: '{path},{os.path.join(path, '**', '*' + kind)}')"


@cache
def _print_once(line: str) -> None:
    print(line, file=sys.stderr)


def _missing_hint(path: str) -> str:
    parent = Path(path).parent
    beside = [str(p) for p in parent.glob("*")] if parent.is_dir() else []
    near = nearest_hint(path, [*beside, "sotu"])
    return near or "; a source is sotu, tfds:NAME, or files (.txt .jsonl .npy .bin)"


def _is_empty(path: Path) -> bool:
    # Files of the kernel, such as /proc/cpuinfo, have a size of 0 whatever they hold.
    if path.stat().st_size:
        return False
    with path.open("rb") as file:
        return not file.read(1)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _TOKEN_KINDS:
        return "tokens"
    return "jsonl" if suffix == ".jsonl" else "text"
