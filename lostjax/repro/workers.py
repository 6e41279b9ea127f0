"""A pool of processes, each on a CPU core of its own."""

import contextlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.queues import Queue
from queue import Empty
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")


def map_on_cores(
    function: Callable[[T], S], items: Iterable[T], *, workers: int
) -> list[S]:
    """Apply a function to every item, several at once.

    Args:
      function: of one item; can be pickled where there are several workers.
      items: to be worked on, the first ones first.
      workers: processes at once; 1 works in this process, on all of its cores.

    Returns:
      The results, in the order of the items.
    """
    if workers == 1:
        return [function(item) for item in items]
    context = get_context("spawn")
    cores: Queue[int] = context.Queue()
    if hasattr(os, "sched_setaffinity"):  # not on a Mac
        for core in sorted(os.sched_getaffinity(0))[:workers]:
            cores.put(core)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_take_core, initargs=(cores,)
    ) as pool:
        return list(pool.map(function, items))


def _take_core(cores: "Queue[int]") -> None:
    """Keep a worker to one core: XLA then makes one thread, and none waits."""
    with contextlib.suppress(Empty):
        os.sched_setaffinity(0, {cores.get(timeout=1)})
