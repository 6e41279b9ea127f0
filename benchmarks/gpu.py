"""A check of one H100 or H200 in eight minutes: kernels, times, memory and plan.

    python3 benchmarks/gpu.py [--sections=values,times,memory] [--json=FILE]
        [--markdown=FILE] [--dry]

Needs a plain python3 with jax (CUDA), flax, optax, numpy and jaxtyping, and this
checkout; no network and no text. Three sections, each with a budget of seconds, print
their most telling rows first, and `not reached` for the rest:

    values    values and gradients of cuDNN's attention and of the Mosaic GPU products,
              in rows with documents, against XLA's
    times     layer and training step at 350m, 60m and 1b, one factor at a time from
              LOST: linear map, attention, products, optimiser; memory beside the plan's
    memory    the largest batch of LOST with FRUGAL at 1b and 7b, beside the plan's

Programs are compiled in threads before a section's figures are taken, and nothing is
timed while one compiles. The plan's estimates are those of `device/plans.json`, made
without a GPU by `--make-plan=h100:1,h200:1`. `--dry` runs all of it on a CPU in toys.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from device.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("gpu", sys.argv[1:], doc=__doc__, script=__file__))
