"""Fair timing: every form in one process, in turn, the fastest repetition counts.

Other work on the machine then touches all forms alike, and only ratios are reported.
"""

import time
from collections.abc import Callable, Mapping


def fastest_in_turn(
    steps: Mapping[str, Callable[[], object]], *, repeat: int
) -> dict[str, float]:
    """Time functions in turn, after one call each to compile.

    Args:
        steps: what to time, by name; each returns when its work is done.
        repeat: how often each is timed.

    Returns:
        Seconds of each one's fastest call.
    """
    best = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(repeat):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - start)
    return best
