"""Several processes as one run, by `jax.distributed`.

A run is started once per host with the same flags. Processes find each other through
`--hosts.coordinator`, `--hosts.processes` and `--hosts.index`, or through what the
environment says: `JAX_COORDINATOR_ADDRESS`, a TPU pod, Slurm, Open MPI. On CPUs they
speak gloo.

Where one dies the others cannot go on. As a rule what they were sending to it fails at
once, and they leave at once: tidying up would wait for the dead one. Where nothing was
on its way, its host is silent, or one process's devices wait for each other, it is
missed after `SILENT_SECONDS`, and JAX ends the others.
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
"""After so long without a sign of life a process is taken for dead, and all end."""

_OTHERS_GONE = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")


def join_hosts(
    hosts: HostsConfig, *, environment: Mapping[str, str] = os.environ
) -> None:
    """Connect this process to the others of its run; alone, do nothing.

    Must come before the first use of a device.

    Raises:
      ConfigError: where the flags are incomplete or contradict each other, or the
        others cannot be reached.
    """
    given = (hosts.coordinator, hosts.processes, hosts.index)
    if given == (None, None, None) and not _is_cluster(environment):
        return
    if given != (None, None, None):
        _check(hosts)
    # It would catch SIGTERM, and leave Ctrl-C: `train.watch.signals` has both.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=hosts.coordinator,
            num_processes=hosts.processes,
            process_id=hosts.index,
            heartbeat_timeout_seconds=SILENT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--hosts: the processes cannot join: {reason}") from None


def is_first_host() -> bool:
    """Say whether this process writes files and talks to the terminal."""
    return jax.process_index() == 0


def on_first_host(work: Callable[[], int | None]) -> int:
    """Do something in the first process alone and let all go on, or none.

    All processes call it at the same point. Alone, it is the call itself.

    Args:
      work: what the first process does; gives a number below 2^31, or None for 0.

    Returns:
      The number, in every process.

    Raises:
      Exception: in the first process what `work` raised.
      ConfigError: in the others, where it raised.
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
            raise ConfigError("the first process could not; it says why")
    if trouble is not None:
        raise trouble
    return result


@contextmanager
def leaving_without_the_others(last: Callable[[], None]) -> Iterator[None]:
    """Of several processes, end the one that fails in a `with` block at once.

    Nothing outside the block is tidied up, for that would wait for processes that are
    dead or, where this one alone failed, for ones that wait for it. `ConfigError` goes
    through: processes refuse together.

    Args:
      last: what is done before leaving all the same; it waits for nobody.
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
            "cannot reach another one, which died or lost its network"
            if gone
            else ("failed")
        )
        print(
            f"{who} {what} ({reason}); all end, and started again the run goes on from "
            "its newest checkpoint",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        last()
        os._exit(1)


def agree(mesh: Mesh) -> Callable[[int], int]:
    """Let the processes of a run find the largest of their numbers without waiting.

    Args:
      mesh: all devices of the run.

    Returns:
      A function that all processes call at the same points. Alone, it gives what it
      gets; otherwise the largest of what they gave in the call before (0 at first), so
      that it waits for no step that is under way: the answer came with the last one.
    """
    if jax.process_count() == 1:
        return lambda number: number
    hosts = Mesh(mesh.devices.reshape(-1), ("hosts",))
    each, whole = NamedSharding(hosts, P("hosts")), NamedSharding(hosts, P())
    largest = jax.jit(jnp.max, out_shardings=whole)
    pending: jax.Array | None = None

    @cache  # placing a number takes longer than comparing it
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
                f"--hosts.{flag} is missing: --hosts.coordinator, --hosts.processes "
                "and --hosts.index are given together or not at all"
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
    """Say whether the environment is one of several hosts."""
    return (
        "JAX_COORDINATOR_ADDRESS" in environment
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or _number(environment.get("SLURM_NTASKS")) > 1
        or _number(environment.get("OMPI_COMM_WORLD_SIZE")) > 1
    )


def _number(text: str | None) -> int:
    return read_whole(text or "") or 0
