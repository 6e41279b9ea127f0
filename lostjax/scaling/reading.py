"""Loss curves from run directories, sweeps' cells and tables.

    RUN                 its held-out losses, or its training losses in 30 stretches
    cells.jsonl         of a sweep or an experiment: the training losses of every cell
    TABLE.csv[.gz]      n_params, tokens, loss; and run, family, steps or batch_tokens

Parameters of runs and cells are those outside embedding and head.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError, nearest_hint
from lostjax.nn import count_parameters
from lostjax.sweep.cell_file import Cell, CellFile
from lostjax.sweep.cells import PARAMETERS
from lostjax.train.build.model import build_model
from lostjax.train.config.schema import TrainConfig
from lostjax.train.config.stored import load_run_config
from lostjax.train.keep.directory import find_run
from lostjax.train.log.json_lines import read_evaluations, read_metrics, read_whole

LossKind = Literal["held-out", "training"]

_STRETCHES = 30  # of training losses, whose single values are noisy
_NEEDED = ("n_params", "tokens", "loss")
_BATCH = "batch_tokens"


class LossCurve(NamedTuple):
    """A run's losses by tokens."""

    name: str
    n_params: float
    batch_tokens: float
    """Tokens a step; NaN if it is not known."""
    tokens: np.ndarray
    losses: np.ndarray
    source: str
    """What the loss is of: text, tokenizer, kind. Equal for curves of one law."""


def read_curves(
    names: Sequence[str], *, loss: LossKind, family: str | None, skip: float
) -> list[LossCurve]:
    """Read the curves of runs, cells and tables, and leave out their beginnings.

    Args:
      names: paths, or `latest`.
      loss: which losses of a run directory are read.
      family: which family of a table is read, if it has several.
      skip: share of each curve's tokens at its beginning that is left out, in [0, 1).

    Returns:
      The curves, the smallest model first.

    Raises:
      ConfigError: if something is no run, no table, or of another text.
    """
    curves = [
        curve
        for name in names
        for curve in _read(name, loss=loss, family=family)
        if len(curve.tokens)
    ]
    if not curves:
        raise ConfigError(f"{', '.join(names)}: no losses")
    sources = list(dict.fromkeys(curve.source for curve in curves))
    if len(sources) > 1:
        raise ConfigError(
            f"losses that cannot be compared: {sources[0]}; and {sources[1]}"
        )
    cut = [_skip(curve, skip=skip) for curve in curves]
    return sorted(cut, key=lambda curve: (curve.n_params, curve.name))


def _read(name: str, *, loss: LossKind, family: str | None) -> Iterator[LossCurve]:
    if name.endswith((".csv", ".csv.gz")):
        yield from _read_table(read_path(name, flag="TABLE"), family=family)
    elif name.endswith(".jsonl"):
        yield from _read_cells(read_path(name, flag="CELLS"))
    else:
        yield _read_run(find_run(name), loss=loss)


def _skip(curve: LossCurve, *, skip: float) -> LossCurve:
    kept = curve.tokens >= skip * curve.tokens.max()
    return curve._replace(tokens=curve.tokens[kept], losses=curve.losses[kept])


def _read_run(directory: Path, *, loss: LossKind) -> LossCurve:
    config = load_run_config(directory)
    lines = read_whole(
        read_evaluations if loss == "held-out" else read_metrics, directory
    )
    key = "eval_loss" if loss == "held-out" else "loss"
    pairs = [
        (line["step"], line[key])
        for line in lines
        if math.isfinite(line.get(key, math.nan))
    ]
    if not pairs:
        raise ConfigError(f"{directory}: has no {loss} loss")
    steps, losses = np.array(pairs, np.float64).T
    if loss == "training":
        steps, losses = _average(steps, losses)
    batch = config.batch_size * config.data.seq_len
    model = build_model(config.model, vocab_size=1)
    return LossCurve(
        name=str(directory),
        n_params=float(count_parameters(model).non_embedding),
        batch_tokens=float(batch),
        tokens=steps * batch,
        losses=losses,
        source=_describe(config, loss),
    )


def _describe(config: TrainConfig, loss: str) -> str:
    return (
        f"{loss} loss on {config.data.source}, tokenizer {config.data.tokenizer}, rows "
        f"of {config.data.seq_len} tokens"
    )


def _average(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average in stretches of equal length in the logarithm of the step."""
    edges = np.geomspace(steps[0], steps[-1] + 1, _STRETCHES + 1)
    places = np.digitize(steps, edges) - 1
    groups = [places == place for place in np.unique(places)]
    return (
        np.array([steps[group].mean() for group in groups]),
        np.array([losses[group].mean() for group in groups]),
    )


def _read_cells(path: Path) -> Iterator[LossCurve]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    for cell in CellFile(path):
        if len(cell.losses) and PARAMETERS in cell.measures:
            yield _curve_of(cell)


def _curve_of(cell: Cell) -> LossCurve:
    fields = cell.configuration
    batch = float(fields["batch_size"] * fields["data.seq_len"])
    count = len(cell.losses)
    every = max(1, fields["steps"] // 20)
    steps = every * np.arange(1.0, count + 1)
    losses = np.array(cell.losses)
    good = np.isfinite(losses)
    return LossCurve(
        name=cell.name,
        n_params=float(cell.measures[PARAMETERS]),
        batch_tokens=batch,
        tokens=(steps * batch)[good],
        losses=losses[good],
        source=(
            f"training loss on {fields['data.source']}, tokenizer "
            f"{fields['data.tokenizer']}, rows of {fields['data.seq_len']} tokens"
        ),
    )


def _read_table(path: Path, *, family: str | None) -> Iterator[LossCurve]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
        reader = csv.DictReader(text.splitlines())
        rows, head = list(reader), reader.fieldnames or []
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, EOFError, zlib.error, csv.Error) as error:
        raise ConfigError(f"{path}: not a table: {error}") from None
    for name in _NEEDED:
        if name not in head:
            raise ConfigError(
                f"{path}: has no column {name}{nearest_hint(name, head)}; it needs "
                f"{', '.join(_NEEDED)}"
            )
    rows = _choose_family(rows, family, path=path)
    named = ("run", "model", "family", "epochs")
    keys = [name for name in named if len({row.get(name) for row in rows}) > 1]
    runs: dict[tuple[str, ...], list[tuple[float, ...]]] = {}
    for number, row in enumerate(rows):
        key = tuple(row[name] for name in keys) or (row["n_params"],)
        runs.setdefault(key, []).append(_numbers(row, path=path, number=number + 2))
    for key, found in runs.items():
        sizes, seen, losses, batches = np.array(sorted(found, key=lambda x: x[1])).T
        if np.ptp(sizes):
            raise ConfigError(
                f"{path}: run {' '.join(key)} has several sizes; name its runs apart "
                "in the column run"
            )
        # Batches that grow during the run are no batch of the step law.
        batch = batches[-1] if np.ptp(batches) <= 0.01 * batches[-1] else math.nan
        yield LossCurve(" ".join(key), sizes[0], batch, seen, losses, f"table {path}")


def _choose_family(
    rows: list[dict[str, Any]], family: str | None, *, path: Path
) -> list[dict[str, Any]]:
    families = list(dict.fromkeys(row.get("family") or "" for row in rows))
    if family is None:
        if len(families) > 1:
            raise ConfigError(
                f"{path}: has the families {', '.join(families)}; choose one by "
                "--family"
            )
        return rows
    if family not in families:
        raise ConfigError(
            f"--family={family}: {path} has {', '.join(families) or 'none'}"
            f"{nearest_hint(family, families)}"
        )
    return [row for row in rows if row["family"] == family]


def _numbers(
    row: Mapping[str, Any], *, path: Path, number: int
) -> tuple[float, float, float, float]:
    """Read size, tokens, loss and batch of a row."""
    values = {}
    for name in (*_NEEDED, "steps", _BATCH):
        text = row.get(name)
        if text in (None, "") and name not in _NEEDED:
            continue
        try:
            values[name] = float(text or "")
        except ValueError:
            raise ConfigError(
                f"{path}, line {number}: {name}={text!r} is not a number"
            ) from None
    batch = values.get(_BATCH, math.nan)
    if math.isnan(batch) and values.get("steps"):
        batch = round(values["tokens"] / values["steps"])
    return values["n_params"], values["tokens"], values["loss"], batch
