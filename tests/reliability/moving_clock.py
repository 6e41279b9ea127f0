"""The command line of the trainer, under a clock that somebody keeps setting.

Before every save the wall clock is set anew: years or a day off, or right; and so are
the dates of all of the run's files. The clock that only goes forward stands still where
steps are timed, as a coarse one does.
"""

import os
import random
import sys
import time
import types

DAY = 86400.0
OFFSETS = [-3000 * DAY, -DAY, -1.0, 0.0, 1.0, DAY, 3000 * DAY]
NOW = time.time
offset = OFFSETS[-1]


def moved_time():
    return NOW() + offset


def set_clock(directory):
    global offset
    for path in [directory, *directory.rglob("*")]:
        date = NOW() + random.choice(OFFSETS)
        os.utime(path, (date, date))
    offset = random.choice([other for other in OFFSETS if other != offset])


def move(replace):
    """Move the clock of this process, by a function as `setattr`."""
    from lostjax.train import recorder
    from lostjax.train.keep.checkpoints import Checkpoints

    save = Checkpoints.save

    def set_clock_and_save(self, state, *, step, also=None):
        self.wait()
        set_clock(self.directory.parent)
        save(self, state, step=step, also=also)

    still = time.monotonic()
    clock = types.SimpleNamespace(time=moved_time, monotonic=lambda: still)
    replace(Checkpoints, "save", set_clock_and_save)
    replace(time, "time", moved_time)
    replace(time, "time_ns", lambda: int(moved_time() * 1e9))
    replace(recorder, "time", clock)


if __name__ == "__main__":
    from lostjax.train.__main__ import main

    move(setattr)
    sys.exit(main(sys.argv[1:]))
