"""Prepared TensorFlow Datasets, read without TensorFlow.

A data set must be stored as array_record: `download_and_prepare` with
`file_format="array_record"`. It is opened with `builder_from_directory(...)
.as_data_source`, which needs neither the code that created it nor network access.

A data set names its files by a template of its own. The files that are hashed are
therefore those that TFDS says that it reads, and every record of them must be read.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lostjax.data.cache import hash_parts
from lostjax.data.text.documents import check_unicode
from lostjax.data.text.hashed_files import HashedFiles
from lostjax.errors import DataError, first_line

HELDOUT_SPLITS = ("validation", "test")
"""Splits to hold out; the first one that the data set has is used."""

_BLOCK = 1024
_OWN_FEATURES = "tensorflow_datasets.core.features."
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")


@dataclass(frozen=True)
class PreparedDataset(HashedFiles):
    """One split of a prepared data set; `field` of each record is a document."""

    directory: Path
    split: str
    field: str = "text"

    def __iter__(self) -> Iterator[str]:
        """Iterate over the documents in order; empty ones are skipped.

        Raises:
          DataError: if a record lacks the field, or the field is not UTF-8 text.
        """
        for number, record in enumerate(self._read()):
            where = f"{self.directory} ({self.split} record {number})"
            if not isinstance(record, dict) or self.field not in record:
                raise DataError(f"{where}: no field {self.field!r}; choose with #FIELD")
            if text := _text(record[self.field], where=where):
                yield text

    def _read(self) -> Iterator[object]:
        try:
            # Read in blocks: one record at a time takes twice as long.
            for first in range(0, len(self._records), _BLOCK):
                last = min(first + _BLOCK, len(self._records))
                yield from self._records.__getitems__(range(first, last))
        except (RuntimeError, ValueError, OSError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.directory}: {first_line(error)}") from error

    @cached_property
    def paths(self) -> tuple[Path, ...]:  # type: ignore[override]
        """The split's files, in the order in which TFDS reads them.

        Raises:
          DataError: if there is none, or a file holds other records than are read.
        """
        try:
            files = tuple(_list_files(self._records.dataset_info.splits[self.split]))
        except DataError:
            raise
        except Exception as error:  # TFDS raises what its crafted metadata lead to
            raise DataError(f"{self.directory}: {first_line(error)}") from error
        if not any(os.path.isfile(path) for path in files):  # False if it cannot be
            raise DataError(
                f"{self.directory}: holds no array_record files of the split "
                f"{self.split!r}; prepare the data set with "
                'file_format="array_record"'
            )
        _check_records(files, len(self._records))
        return files

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the split's files, and of the field."""
        return hash_parts("tfds", self.field, *self.file_hashes)

    @cached_property
    def _records(self) -> Any:
        builder = _open(self.directory)
        try:
            return builder.as_data_source(split=self.split)
        except Exception as error:
            raise DataError(f"{self.directory}: {first_line(error)}") from error


def open_prepared(
    name: str, *, field: str = "text"
) -> tuple[PreparedDataset, PreparedDataset | None]:
    """Open a prepared data set.

    Args:
      name: directory that contains dataset_info.json, or name of a data set prepared
        under TFDS's data directory (`name`, `name/config`, `name:version`).
      field: feature that contains the text.

    Returns:
      (training split, validation or test split); the second is None if there is
      neither.

    Raises:
      DataError: if there is no such data set, it is not stored as array_record, or it
        lacks the field or a training split.
    """
    directory = _find(name)
    builder = _open(directory)
    splits = list(builder.info.splits)
    features = sorted(getattr(builder.info.features, "keys", list)())
    if features and field not in features:
        raise DataError(
            f"{directory}: no field {field!r} (its fields: {_list(features)}); "
            f"choose one with tfds:{name}#FIELD"
        )
    if "train" not in splits:
        raise DataError(f"{directory}: no split 'train' (its splits: {_list(splits)})")
    train = PreparedDataset(directory, "train", field)
    held = next((split for split in HELDOUT_SPLITS if split in splits), None)
    heldout = None if held is None else PreparedDataset(directory, held, field)
    common = set(train.paths) & set(() if heldout is None else heldout.paths)
    if common:
        raise DataError(
            f"{directory}: its splits 'train' and {held!r} both hold {min(common)}"
        )
    return train, heldout


def _list_files(split: Any) -> Iterator[Path]:
    """List the files that a source reads, by its own information.

    The source may have chosen another of the data set's file formats.
    """
    for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
        if not (name := os.fspath(path)).isprintable():  # names appear in messages
            raise DataError(f"dataset_info.json names the file {name[-80:]!r}")
        if length or path.exists():  # TFDS does not open an empty shard
            yield Path(name)


def _check_records(files: Sequence[Path], wanted: int) -> None:
    """Refuse files of which TFDS would read a part, or more than there is."""
    # TFDS's own import: array_record has no types, and only TFDS declares it.
    from tensorflow_datasets.core.utils.lazy_imports_utils import (
        array_record_data_source,
    )

    try:
        source = array_record_data_source.ArrayRecordDataSource(
            [str(path) for path in files]
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(f"{files[0].parent}: {first_line(error)}") from error
    there = len(source)
    if there != wanted:
        raise DataError(
            f"{files[0].parent}: dataset_info.json lists {wanted} records of "
            f"{files[0].name} and its other shards, but they hold {there}"
        )


def _list(names: Sequence[str]) -> str:
    """Format names from an untrusted data set in one line."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:16]]
    more = [f"{len(names) - 16} more"] if len(names) > 16 else []
    return ", ".join([*shown, *more]) or "none"


def _find(name: str) -> Path:
    path = Path(os.path.expanduser(name))  # of no such user: as it is
    if (path / "dataset_info.json").is_file():
        return path
    inside = sorted(path.rglob("dataset_info.json")) if path.is_dir() else []
    if len(inside) == 1:
        return inside[0].parent
    if inside:
        names = ", ".join(f"tfds:{found.parent}" for found in inside[:4])
        raise DataError(
            f"tfds:{name}: contains several data sets; choose one of {names}"
        )
    if path.is_dir() or "/" in name and path.parent.is_dir() and path.is_absolute():
        raise DataError(f"tfds:{name}: no prepared data set there (dataset_info.json)")
    # Import lazily: the package is slow to import, and only tfds sources need it.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.core.read_only_builder.builder_from_files(name)
    except Exception as error:
        raise DataError(
            f"tfds:{name}: neither a directory nor a data set prepared under TFDS's "
            'data directory; prepare it first, with file_format="array_record"'
        ) from error
    return Path(str(builder.data_path))


def _open(directory: Path) -> Any:
    import tensorflow_datasets as tfds

    _refuse_foreign_features(directory)
    try:
        return tfds.builder_from_directory(str(directory))
    except Exception as error:
        raise DataError(
            f"{directory}: not a prepared data set: {first_line(error)}"
        ) from error


def _refuse_foreign_features(directory: Path) -> None:
    """Reject features of other packages: TFDS imports every class named there."""
    path = directory / "features.json"
    try:
        features = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {first_line(error)}") from None
    for name in _class_names(features):
        if not name.startswith(_OWN_FEATURES):
            raise DataError(
                f"{path}: names the class {name[:80]!r}, which is not one of TFDS's "
                "own; refusing to import it"
            )


def _class_names(part: object) -> Iterator[str]:
    if isinstance(part, list):
        for inner in part:
            yield from _class_names(inner)
    if isinstance(part, dict):
        for key, inner in part.items():
            if key in _CLASS_KEYS and isinstance(inner, str):
                yield inner
            yield from _class_names(inner)


def _text(value: object, *, where: str) -> str:
    # Data sets on disk return bytes, TFDS's mock data returns str.
    if isinstance(value, str):
        return check_unicode(value, where=where)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: not UTF-8 (byte 0x{value[error.start]:02x} at offset "
                f"{error.start})"
            ) from error
    raise DataError(f"{where}: the field must be text, not {type(value).__name__}")
