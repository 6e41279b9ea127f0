"""Refuse, before the first transfer, processes that would not compute the same run.

Processes whose programs or batches differ fail in a transfer, hours of an allocation
later, wait for each other for ever, or train on a mixture that nobody asked for. Each
process therefore publishes what it is about to do in the key-value store of
`jax.distributed`, which needs no devices, and all compare all.
"""

import importlib.metadata
import json
import time
from collections.abc import Mapping
from pathlib import Path

from jax._src import distributed

from lostjax.errors import ConfigError
from lostjax.train.config.fields import flag_name, flat_fields
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.waiting import wait_aloud

OWN_FIELDS = frozenset(
    {"hosts.coordinator", "hosts.index", "hosts.wait", "data.cache_dir", "wandb"}
)
"""Dotted fields that may differ between the processes of a run."""

_SEEN_SECONDS = 60

_WAIT_SECONDS = 24 * 3600
"""Texts take a while to prepare. A process that dies meanwhile is noticed anyway."""


def check_same_flags(config: TrainConfig) -> None:
    """Refuse configurations that differ between processes; all processes call this.

    Raises:
      ConfigError: in every process, with the first flag that differs.
    """
    values = {
        flag_name(name): value
        for name, value in flat_fields(config).items()
        if name not in OWN_FIELDS
    }
    if config.run_dir is not None:  # from wherever each process was started
        values["--run-dir"] = str(Path(config.run_dir).absolute())
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    check_same("flags", values | versions)


def check_same(name: str, values: Mapping[str, object]) -> None:
    """Refuse values that differ between processes; all processes call this.

    Args:
      name: of these values; used once in a run.
      values: by the names that the message shows.

    Raises:
      ConfigError: in every process, with the first value that differs.
    """
    joined = distributed.global_state
    if joined.client is None or joined.num_processes == 1:
        return
    key = f"lostjax/{name}/"
    joined.client.key_value_set(f"{key}{joined.process_id}", json.dumps(dict(values)))
    client = joined.client
    wait_aloud(
        lambda: client.wait_at_barrier(f"lostjax/{name}", _WAIT_SECONDS * 1000),
        what=lambda: f"the other processes, to compare their {name}",
    )
    found = {
        int(path.rpartition("/")[2]): json.loads(text)
        for path, text in joined.client.key_value_dir_get(key)
    }
    for index in sorted(found):
        for field, value in found[0].items():
            if found[index].get(field) != value:
                raise ConfigError(
                    f"{field}: {value} in process 0, {found[index].get(field)} in "
                    f"process {index}; start every process with the same {name}"
                )


def check_shared(path: Path) -> None:
    """Refuse a file of the first process that others do not see; all call this.

    Without a shared file system, each process would save its part of every checkpoint
    on a disk of its own.

    Args:
      path: a file that the first process wrote right before; its content is compared.

    Raises:
      ConfigError: in every process, if one sees no such file, or another one.
    """
    # A network file system may show a new file late.
    deadline = time.monotonic() + _SEEN_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    content = path.read_text().strip() if path.exists() else "not there"
    # Named without its directory: that one may be mounted elsewhere.
    check_same("file system", {path.name: content})
