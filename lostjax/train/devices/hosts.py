"""What the processes of one run do together: files, signals, and ends.

If a process dies, the others must end too, and without cleaning up, because that would
wait for the dead process. They hear of it at once (`train.devices.lifeline`), and often
see it even sooner, because pending transfers to it fail. A process that is frozen is
missed after half of `joining.SILENT_SECONDS`.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.errors import ConfigError, DataError
from lostjax.train.devices.lifeline import find_lifeline

_OTHERS_GONE = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")


def finish_with_hosts(code: int = 0) -> None:
    """Report to the other processes, if there are any, that this one is done.

    Args:
      code: exit code of this process.
    """
    line = find_lifeline()
    if line is not None:
        line.finish(code)


def leave_hosts(code: int) -> int:
    """End before the run's time; see `Lifeline.leave`. Returns the exit code."""
    line = find_lifeline()
    return code if line is None else line.leave(code)


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
def leaving_without_the_others(
    last: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Exit at once if one of several processes fails in the `with` block.

    Nothing outside the block is cleaned up, because that would wait for processes that
    are dead or, if only this one failed, for processes that wait for it. `ConfigError`
    and `DataError` are raised as usual, because all processes mostly raise them
    together. A run of one process raises every exception as usual.

    Args:
      last: called before the exit, also if the exit is due to another process; must
        not wait for other processes.
    """
    line = find_lifeline()
    if line is not None and last is not None:
        line.last = last
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:
        line = find_lifeline()  # it may be joined in the block
        if line is None:
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if any(sign in reason for sign in _OTHERS_GONE):
            line.end_without("another process", reason)
        traceback.print_exc()
        line.end(f"failed ({reason}); all processes end")


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
