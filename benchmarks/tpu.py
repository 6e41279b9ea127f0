"""A check of one TPU, such as Colab's, in eight minutes: see `benchmarks/gpu.py`.

    python3 benchmarks/tpu.py [--sections=values,times,memory] [--json=FILE]
        [--markdown=FILE] [--dry]

Splash attention takes the place of cuDNN's, and the Mosaic TPU products that of the
Mosaic GPU ones; sizes and rows are those that 16 GB hold.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from device.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("tpu", sys.argv[1:], doc=__doc__, script=__file__))
