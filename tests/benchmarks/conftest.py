"""The benchmarks are scripts: their folder is on the path, as it is when they run."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
