"""Join the processes of a run into one, with `jax.distributed`.

A run is started once per host, with the same flags. Processes find each other through
`--hosts.coordinator`, `--hosts.processes` and `--hosts.index`, or through the
environment: `JAX_COORDINATOR_ADDRESS`, a TPU pod, Slurm, Open MPI. On CPUs their
collectives use gloo.
"""

import os
import sys
from collections.abc import Mapping

import jax
from jax._src import distributed

from lostjax.errors import ConfigError
from lostjax.numerals import read_whole
from lostjax.train.config.schema import HostsConfig
from lostjax.train.devices.lifeline import (
    Lifeline,
    connect,
    find_lifeline,
    hold_lifeline,
    start_beside,
)
from lostjax.train.devices.waiting import WaitedTooLong, wait_aloud

SILENT_SECONDS = 60
"""Seconds without a heartbeat after which JAX aborts the other processes; they end by
themselves after half of that."""

_GAVE_UP = "{} waited {} s (--hosts.wait) in vain for {}; start all processes again"

_MOST_NAMES = 5
"""Number of missing processes that a line names."""

_LINE_KEY = "lostjax/lifeline"
_LINE_SECONDS = 30


def join_hosts(
    hosts: HostsConfig, *, environment: Mapping[str, str] = os.environ
) -> None:
    """Connect this process to the others of its run, if there are others.

    Call it before the first use of a device.

    Args:
      hosts: the flags; all None: the environment decides.
      environment: variables that a cluster sets.

    Raises:
      ConfigError: if the flags are incomplete or contradict each other, or the other
        processes cannot be reached.
    """
    given = (hosts.coordinator, hosts.processes, hosts.index)
    if given == (None, None, None) and not _is_cluster(environment):
        return
    if given != (None, None, None):
        _check(hosts)
    # JAX's service would catch SIGTERM, and not Ctrl-C; `train.watch.signals` handles
    # both.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if hosts.coordinator is None:
            _join_in_cluster(hosts.wait)
        else:
            _wait_at(hosts)
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--hosts: the processes cannot join: {reason}") from None


def _initialize(seconds: int, **where: object) -> None:
    jax.distributed.initialize(
        **where,  # type: ignore[arg-type]
        # Below JAX's 100 s, so that a silent host ends the run sooner.
        heartbeat_timeout_seconds=SILENT_SECONDS,
        # JAX would abort without a message that says what to do.
        initialization_timeout=seconds + 60,
    )


def _join_in_cluster(seconds: int) -> None:
    """Join the processes that the environment describes."""
    try:
        wait_aloud(
            lambda: _initialize(seconds),
            what=lambda: "the other processes of the run",
            seconds=seconds,
        )
    except (WaitedTooLong, KeyboardInterrupt) as error:
        # At once: JAX's own exit would wait for the call that was left behind.
        if isinstance(error, KeyboardInterrupt):
            os._exit(130)
        print(_GAVE_UP.format("this process", seconds, "the others"), file=sys.stderr)
        os._exit(2)
    _hear_in_cluster()


class _Missing:
    """What a process waits for that joins at the address of its flags."""

    def __init__(self, hosts: HostsConfig) -> None:
        self._hosts = hosts
        self._reason = ""

    def note(self, error: OSError) -> None:
        """Note why the first process cannot be reached so far."""
        self._reason = f" ({error.strerror or error})"

    def describe(self) -> str:
        """Name the processes that are missing."""
        of = f"of {self._hosts.processes} at {self._hosts.coordinator}"
        line = find_lifeline()
        if line is None:
            return f"process 0 {of}{self._reason}"
        names = [str(index) for index in line.list_missing()]
        if not names:
            return f"the connections of the processes {of}"
        if len(names) > _MOST_NAMES:
            names[_MOST_NAMES - 1 :] = [f"{len(names) - _MOST_NAMES + 1} more"]
        first = ", ".join(names[:-1])
        words = f"es {first} and {names[-1]}" if first else f" {names[-1]}"
        return f"process{words} {of}"


def _wait_at(hosts: HostsConfig) -> None:
    """Join the processes at the address of the flags, or give up."""
    missing = _Missing(hosts)
    try:
        wait_aloud(
            lambda: _join_at(hosts, missing),
            what=missing.describe,
            seconds=hosts.wait,
        )
    except WaitedTooLong:
        who = f"process {hosts.index}"
        text = _GAVE_UP.format(who, hosts.wait, missing.describe())
        raise ConfigError(f"--hosts: {text}") from None


def _join_at(hosts: HostsConfig, missing: _Missing) -> None:
    """Join the processes at the address of the flags."""
    assert hosts.coordinator and hosts.processes and hosts.index is not None
    host, _, text = hosts.coordinator.rpartition(":")
    port, is_first = int(text), hosts.index == 0
    beside = None
    if is_first:
        beside = start_beside(
            port=port, processes=hosts.processes, silent_seconds=SILENT_SECONDS
        )
    connection = connect(
        "localhost" if is_first else host.strip("[]"),
        port,
        index=hosts.index,
        processes=hosts.processes,
        note=missing.note,
    )
    hold_lifeline(
        Lifeline(
            connection, index=hosts.index, processes=hosts.processes, beside=beside
        )
    )
    _initialize(
        hosts.wait,
        coordinator_address=f"{host}:{connection.service_port}",
        num_processes=hosts.processes,
        process_id=hosts.index,
        # JAX starts a service in the first process anyway: here, for nobody.
        coordinator_bind_address="localhost:0" if is_first else None,
    )


def _hear_in_cluster() -> None:
    """Connect the lifeline where JAX found the processes by itself."""
    joined = distributed.global_state
    assert joined.client is not None and joined.coordinator_address is not None
    index, processes = joined.process_id, joined.num_processes
    host = joined.coordinator_address.rpartition(":")[0].strip("[]")
    beside, connection = None, None
    try:
        if index == 0:
            beside = start_beside(
                port=0, processes=processes, silent_seconds=SILENT_SECONDS
            )
            joined.client.key_value_set(_LINE_KEY, f"{beside.port} {beside.token}")
        told = joined.client.blocking_key_value_get(_LINE_KEY, _LINE_SECONDS * 1000)
        port, token = told.split()
        connection = connect(
            "localhost" if index == 0 else host,
            int(port),
            index=index,
            processes=processes,
            token=token,
            attempts=3,
        )
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        print(
            f"process {index}: cannot listen to the other processes ({reason}): their "
            f"deaths are noticed only after {SILENT_SECONDS} s",
            file=sys.stderr,
        )
    hold_lifeline(Lifeline(connection, index=index, processes=processes, beside=beside))


def _check(hosts: HostsConfig) -> None:
    for flag in ("coordinator", "processes", "index"):
        if getattr(hosts, flag) is None:
            raise ConfigError(
                f"--hosts.{flag} is missing: set --hosts.coordinator, "
                "--hosts.processes and --hosts.index together, or none of them"
            )
    assert hosts.coordinator and hosts.processes is not None
    port = hosts.coordinator.rpartition(":")[2]
    if read_whole(port, least=1, most=2**16 - 1) is None:
        raise ConfigError(f"--hosts.coordinator={hosts.coordinator}: must be HOST:PORT")
    if not 1 <= hosts.processes < 2**31:
        raise ConfigError(
            f"--hosts.processes={hosts.processes}: must be at least 1, and below 2^31"
        )
    if hosts.index is None or not 0 <= hosts.index < hosts.processes:
        raise ConfigError(
            f"--hosts.index={hosts.index}: must lie in [0, {hosts.processes})"
        )


def _is_cluster(environment: Mapping[str, str]) -> bool:
    """Return whether the environment describes several processes."""
    return (
        "JAX_COORDINATOR_ADDRESS" in environment
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or _number(environment.get("SLURM_NTASKS")) > 1
        or _number(environment.get("OMPI_COMM_WORLD_SIZE")) > 1
    )


def _number(text: str | None) -> int:
    return read_whole(text or "") or 0
