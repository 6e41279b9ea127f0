"""Small real sets of times to an event, read from packages that are installed.

    load_survset            77 sets of one format       SurvSet
    load_scikit_survival    8 sets                      scikit-survival

Both packages are under the GPL, and the data under whatever their sources say: they are
read here and not passed on. Nothing is downloaded, and neither package is imported.

SurvSet keeps pickled tables. A pickle can run any code, so that only the constructors
that a table needs are looked up, and all others are refused. Drysdale, "SurvSet: An
open-source time-to-event dataset repository", 2022, arXiv:2203.03094.

Some columns are written after the fact and tell the outcome, such as a cause of death;
leave those out by `without`. `LEAKS` lists the ones that we know of.
"""

import importlib.util
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lostjax.errors import DataError, first_line, nearest_hint

LEAKS = {
    # Functional state after two months, which has a level for who did not live that
    # long; orders not to resuscitate; and another model's predicted survival.
    "support2": ("sfdm2", "dnr", "surv2m", "surv6m"),
    "flchain": ("chapter",),  # cause of death
}
"""Columns that are known only after the outcome, or predict it by another model."""

MISSING = "missing"
"""Level of a category that is not known."""

TABLE_PARTS = {
    "builtins": {"slice"},
    "numpy": {"dtype", "ndarray"},
    "pandas": {"Categorical", "CategoricalDtype", "DataFrame", "Index", "RangeIndex"},
    "numpy._core.multiarray": {"_reconstruct"},
    "numpy._core.numeric": {"_frombuffer"},
    "pandas._libs.arrays": {"__pyx_unpickle_NDArrayBacked"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas.core.arrays.boolean": {"BooleanArray", "BooleanDtype"},
    "pandas.core.arrays.categorical": {"Categorical"},
    "pandas.core.arrays.integer": {"Int32Dtype", "IntegerArray"},
    "pandas.core.arrays.string_": {"StringArray", "StringDtype"},
    "pandas.core.dtypes.dtypes": {"CategoricalDtype"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.indexes.base": {"_new_Index", "Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager"},
}
"""What a pickled table may look up, as pandas 2 names it and as pandas 3 does."""

SCIKIT_SURVIVAL = {
    "actg320": ("time", "censor", "1", ("time_d", "censor_d")),
    "flchain": ("futime", "death", "dead", ()),
    "GBSG2": ("time", "cens", "1", ()),
    "veteran": ("Survival_in_days", "Status", "dead", ()),
    "whas500": ("lenfol", "fstat", "1", ()),
}
"""Of each set: columns of times and of events, an event's value, and other outcomes."""


@dataclass(frozen=True, eq=False)
class Lifetimes:
    """Times to an event, some of them censored, and what was known before."""

    times_B: np.ndarray
    """When the event happened, or observation ended (B,), float32, in the set's unit;
    some sets hold 0."""
    events_B: np.ndarray
    """Whether the event was seen (B,), bool; False: censored."""
    numbers_BN: np.ndarray
    """Columns of numbers (B, N), float32; NaN: not known."""
    categories_BC: np.ndarray
    """Columns of categories (B, C), int32, each in [0, number of its levels)."""
    number_names: tuple[str, ...]
    category_names: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    """Of each column of categories, what its values are called."""
    licence: str
    """Of the package; that of the data is not stated by it."""
    source: str


CLIP = 5.0
"""Deviations from the mean that a number is cut to: laboratories have long tails."""


class Columns(NamedTuple):
    """A table by columns, before it is made arrays."""

    numbers: dict[str, np.ndarray]
    categories: dict[str, list[str]]


def load_survset(name: str, *, without: Sequence[str] = ()) -> Lifetimes:
    """Load a set of SurvSet, one row a subject.

    Args:
      name: of the set, such as "support2"; those with covariates that change in time
        are refused.
      without: names of columns to leave out, such as `LEAKS[name]`.

    Returns:
      The set, in the package's order.

    Raises:
      DataError: SurvSet or pandas is not installed, there is no such set or column, a
        subject has several rows, or the file is damaged or holds more than a table.
    """
    root = _find_package("SurvSet") / "resources" / "pickles"
    path = root / f"{name}.pickle"
    if not path.is_file():
        known = sorted(each.stem for each in root.glob("*.pickle"))
        raise DataError(f"{name}: SurvSet has no such set{nearest_hint(name, known)}")
    frame = read_pickled_table(path)
    if "time2" in frame or frame["pid"].nunique() < len(frame):
        raise DataError(f"{name}: its subjects have several rows each")
    columns = Columns({}, {})
    for column in frame:
        kind, _, short = str(column).partition("_")
        if kind == "num":
            columns.numbers[short] = frame[column].to_numpy(np.float64)
        elif kind == "fac":
            known = frame[column].astype("object")
            columns.categories[short] = list(known.where(known.notna(), MISSING))
    return _assemble(
        columns,
        times=frame["time"].to_numpy(np.float64),
        events=frame["event"].to_numpy() == 1,
        without=without,
        source=f"SurvSet, {name}",
    )


def load_scikit_survival(name: str, *, without: Sequence[str] = ()) -> Lifetimes:
    """Load a set that scikit-survival brings, from its arff file.

    Args:
      name: one of `SCIKIT_SURVIVAL`.
      without: names of columns to leave out, such as `LEAKS[name]`.

    Returns:
      The set, in the package's order.

    Raises:
      DataError: scikit-survival is not installed, there is no such set or column, or
        the file is damaged.
    """
    from scipy.io import arff

    if name not in SCIKIT_SURVIVAL:
        hint = nearest_hint(name, sorted(SCIKIT_SURVIVAL))
        raise DataError(f"{name}: must be one of {', '.join(SCIKIT_SURVIVAL)}{hint}")
    root = _find_package("sksurv", pip="scikit-survival")
    path = root / "datasets" / "data" / f"{name}.arff"
    time, event, seen, outcomes = SCIKIT_SURVIVAL[name]
    try:
        table, meta = arff.loadarff(path)
        times = table[time].astype(np.float64)
        events = table[event] == seen.encode()
    except (OSError, ValueError, arff.ArffError, StopIteration) as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None
    columns = Columns({}, {})
    for column, kind in zip(meta.names(), meta.types(), strict=True):
        if column in (time, event, *outcomes):
            continue
        if kind == "numeric":
            columns.numbers[column] = table[column].astype(np.float32)
        else:
            words = [word.decode() for word in table[column]]
            columns.categories[column] = [MISSING if w == "?" else w for w in words]
    return _assemble(
        columns,
        times=times,
        events=events,
        without=without,
        source=f"scikit-survival, {name}.arff",
    )


def encode_lifetimes(
    lifetimes: Lifetimes, *, train_rows: np.ndarray | Sequence[int]
) -> np.ndarray:
    """Encode numbers and categories as the inputs of a network.

    Args:
      lifetimes: the set.
      train_rows: rows whose means and deviations standardise the numbers.

    Returns:
      Inputs (B, M), float32: the numbers, standardised, cut at 5 deviations and 0 if
      not known; a 1 for each number that is not known, for those columns that lack any;
      and each category's levels as 0 and 1.
    """
    numbers = lifetimes.numbers_BN.astype(np.float64)
    known = np.isfinite(numbers)
    rows = np.asarray(train_rows)
    count = np.maximum(known[rows].sum(axis=0), 1)
    mean = np.where(known, numbers, 0.0)[rows].sum(axis=0) / count
    off = np.where(known, numbers - mean, 0.0)
    deviation = np.sqrt(np.square(off[rows]).sum(axis=0) / count)
    scaled = np.clip(off / np.where(deviation > 0, deviation, 1.0), -CLIP, CLIP)
    parts = [scaled, (~known[:, ~known.all(axis=0)]).astype(np.float64)]
    for codes, levels in zip(lifetimes.categories_BC.T, lifetimes.levels, strict=True):
        parts.append(np.eye(len(levels))[codes])
    return np.concatenate(parts, axis=1).astype(np.float32)


def read_pickled_table(path: str | Path) -> Any:
    """Read a pickled pandas table, and nothing else that a pickle could hold.

    Args:
      path: the file.

    Returns:
      The table, a `pandas.DataFrame`.

    Raises:
      DataError: pandas is not installed, or the file cannot be read, is damaged, or
        asks for anything that a table does not need.
    """
    if importlib.util.find_spec("pandas") is None:
        raise DataError("SurvSet's tables need pandas: pip install 'lostjax[survival]'")
    try:
        found = _TableUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    # A damaged pickle fails in any way that its constructors fail.
    except Exception as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from None
    import pandas

    if not isinstance(found, pandas.DataFrame):
        raise DataError(f"{path}: holds a {type(found).__name__}, must be a table")
    return found


class _TableUnpickler(pickle.Unpickler):
    """Looks up nothing but the parts of a table."""

    def find_class(self, module: str, name: str) -> Any:
        # The files were written by numpy 1, whose `numpy.core` warns in numpy 2.
        module = module.replace("numpy.core.", "numpy._core.")
        if name not in TABLE_PARTS.get(module, ()):
            raise DataError(f"asks for {module}.{name}, which no table needs: refused")
        return super().find_class(module, name)


def _find_package(name: str, *, pip: str = "") -> Path:
    package = importlib.util.find_spec(name)
    if package is None or not package.submodule_search_locations:
        raise DataError(
            f"this set comes with {pip or name}: pip install 'lostjax[survival]'"
        )
    return Path(package.submodule_search_locations[0])


def _assemble(
    columns: Columns,
    *,
    times: np.ndarray,
    events: np.ndarray,
    without: Sequence[str],
    source: str,
) -> Lifetimes:
    """Make arrays of columns, without some of them."""
    names = [*columns.numbers, *columns.categories]
    for name in without:
        if name not in names:
            raise DataError(f"{source}: no column {name}{nearest_hint(name, names)}")
    if not len(times) or not np.isfinite(times).all() or times.min() < 0:
        raise DataError(f"{source}: times must be finite and not negative; reinstall")
    numbers = {k: v for k, v in columns.numbers.items() if k not in without}
    categories = {
        k: np.unique(list(map(str, v)), return_inverse=True)
        for k, v in columns.categories.items()
        if k not in without
    }
    return Lifetimes(
        times_B=times.astype(np.float32),
        events_B=events.astype(bool),
        numbers_BN=_stack(list(numbers.values()), len(times)).astype(np.float32),
        categories_BC=_stack([c for _, c in categories.values()], len(times)).astype(
            np.int32
        ),
        number_names=tuple(numbers),
        category_names=tuple(categories),
        levels=tuple(tuple(map(str, found)) for found, _ in categories.values()),
        licence="GPL-3",
        source=source,
    )


def _stack(columns: list[np.ndarray], n_rows: int) -> np.ndarray:
    """Stack columns (B,), of which there may be none."""
    return np.stack(columns, axis=1) if columns else np.zeros((n_rows, 0))
