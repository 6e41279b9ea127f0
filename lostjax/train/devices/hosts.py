"""Run several processes as one, with `jax.distributed`.

A run is started once per host, with the same flags. Processes find each other through
`--hosts.coordinator`, `--hosts.processes` and `--hosts.index`, or through the
environment: `JAX_COORDINATOR_ADDRESS`, a TPU pod, Slurm, Open MPI. On CPUs their
collectives use gloo.

If a process dies, the others must end too. Usually their pending transfers to it fail
at once, and they exit at once, because cleaning up would wait for the dead process. If
no transfer was pending, if the dead process's host is silent, or if the devices of a
process wait for each other, heartbeats are missed for `SILENT_SECONDS`, and JAX ends
the other processes.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.errors import ConfigError
from lostjax.numerals import read_whole
from lostjax.train.config.schema import HostsConfig

SILENT_SECONDS = 60
"""Seconds without a heartbeat after which a process is taken for dead."""

_OTHERS_GONE = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")


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
        jax.distributed.initialize(
            coordinator_address=hosts.coordinator,
            num_processes=hosts.processes,
            process_id=hosts.index,
            # Below JAX's 100 s, so that a silent host ends the run sooner.
            heartbeat_timeout_seconds=SILENT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--hosts: the processes cannot join: {reason}") from None


def is_first_host() -> bool:
    """Return whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def on_first_host(work: Callable[[], int | None]) -> int:
    """Call a function in the first process only, and share its result with all.

    All processes call this at the same point. If the function raises, this raises in
    every process.

    Args:
      work: called in the first process; returns a number below 2^31, or None for 0.

    Returns:
      The number, in every process.

    Raises:
      Exception: the exception of `work`, in the first process.
      ConfigError: if `work` raised, in the other processes.
    """
    result, trouble = 0, None
    if is_first_host():
        try:
            result = work() or 0
        except Exception as error:
            trouble = error
    if jax.process_count() > 1:
        told = np.asarray([trouble is not None, result], np.int32)
        failed, result = map(int, multihost_utils.broadcast_one_to_all(told))
        if failed and trouble is None:
            raise ConfigError("the first process failed; its own message says why")
    if trouble is not None:
        raise trouble
    return result


@contextmanager
def leaving_without_the_others(last: Callable[[], None]) -> Iterator[None]:
    """Exit at once if one of several processes fails in the `with` block.

    Nothing outside the block is cleaned up, because that would wait for processes that
    are dead or, if only this one failed, for processes that wait for it. `ConfigError`
    is raised as usual, because all processes raise it together. A run of one process
    raises every exception as usual.

    Args:
      last: called before the exit; must not wait for other processes.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        gone = any(sign in reason for sign in _OTHERS_GONE)
        if not gone:
            traceback.print_exc()
        who = f"process {jax.process_index()} of {jax.process_count()}"
        what = (
            "cannot reach another process, which died or lost its network"
            if gone
            else ("failed")
        )
        print(
            f"{who} {what} ({reason}); all processes end; start the run again to "
            "resume it from its newest checkpoint",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        last()
        # Not sys.exit: JAX's exit handlers would wait for the dead process. It skips
        # Python's flushing too, hence the two calls above.
        os._exit(1)


def agree(mesh: Mesh) -> Callable[[int], int]:
    """Build a function that finds the largest number of all processes, one call late.

    Args:
      mesh: all devices of the run.

    Returns:
      A function of a number that all processes call at the same points. With one
      process it returns its argument. With several it returns the largest argument of
      the previous call (0 in the first call), which was computed before the current
      step, so that the function does not wait for that step.
    """
    if jax.process_count() == 1:
        return lambda number: number
    hosts = Mesh(mesh.devices.reshape(-1), ("hosts",))
    each, whole = NamedSharding(hosts, P("hosts")), NamedSharding(hosts, P())
    largest = jax.jit(jnp.max, out_shardings=whole)
    pending: jax.Array | None = None

    @cache  # placing a number takes longer than the comparison
    def place(number: int) -> jax.Array:
        mine = np.asarray([number], np.int32)
        return jax.make_array_from_callback((hosts.size,), each, lambda _: mine)

    def exchange(number: int) -> int:
        nonlocal pending
        before, pending = pending, largest(place(number))
        return 0 if before is None else int(before)

    return exchange


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
