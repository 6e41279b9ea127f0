"""Plan a run: whether it fits some hardware, and what limits its speed.

    python -m lostjax.plan --preset=lost_1b --topology=v5e:4x4 --mesh=fsdp:16
    python -m lostjax.plan --preset=lost_7b --topology=h100:8 --against=llama_7b

The training step is compiled for the hardware, which need not be present. Memory,
FLOPs, bytes and collectives are printed, with times estimated from published peaks. The
exit code is 0 if the run fits or that is not known, 2 for a wrong flag, and 3 if the
run does not fit.
"""

from lostjax.extras import require_train

if __name__ == "__main__":
    require_train("python -m lostjax.plan")

import dataclasses
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lostjax.data import DataError
from lostjax.disk.files import replace_file
from lostjax.disk.paths import read_path
from lostjax.errors import ConfigError
from lostjax.plan.estimate import make_plan
from lostjax.plan.needs import Plan
from lostjax.plan.search import search_plans
from lostjax.plan.table import compare_plans, note_plans, plan_values, render_plans
from lostjax.plan.targets import find_target
from lostjax.train.config.presets import PRESETS, get_preset
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.provide import provide_devices
from lostjax.train.flags import config_of, parse_run_flags
from lostjax.train.log.output import run_printing_program

PROGRAM = "python -m lostjax.plan"


@dataclasses.dataclass(frozen=True)
class Flags(TrainConfig):
    """Compile a training step for some hardware, and print what it needs.

    The hardware need not be present. All flags of `python -m lostjax.train` are taken,
    and describe the run. Compiling for a TPU needs `pip install libtpu`, for GPUs
    `pip install 'jax[cuda12]'`.
    """

    config: str | None = None
    """JSON file of default values, such as RUN/config.json."""
    topology: str = "here"
    """Hardware: v5e:16x16, v5p:4x4x8, v6e:2x2, tpu7x:2x2x1, v4:2x2x1, a100:8, h100:8,
    h200:8, b200:8, or here (this machine)."""
    against: str | None = None
    """Also plan this preset's model and optimiser, with all other values unchanged,
    among them dtype, attention and a remat policy that you chose."""
    search: int = 0
    """Candidates to compile in a search of meshes, batch sizes and remat policies (0:
    none). All are estimated and the most promising ones compiled; those that fit are
    printed first, in the order of their time per token."""
    out: str = "runs/plan"
    """Directory of plan.json and plan.html."""


def plan(flags: Flags, *, console: Console) -> list[Plan]:
    """Make the plans that the flags describe, print them, and write them to files.

    Returns:
      The plans, in the order in which they are printed.

    Raises:
      ConfigError, DataError: if a flag or the text is wrong, or nothing fits in a
        search.
    """
    config = config_of(flags)
    if flags.search < 0:
        raise ConfigError(f"--search={flags.search}: must be at least 0")
    if flags.search and flags.against:
        raise ConfigError("--search and --against: use one of them, not both")
    out = read_path(flags.out, flag="--out")
    other = get_preset(flags.against, flag="--against") if flags.against else None
    if flags.topology == "here":
        provide_devices(config)
    target = find_target(flags.topology)
    if flags.search:
        plans = search_plans(config, target, count=flags.search, say=console.print)
    else:
        plans = [make_plan(config, target)]
    if other is not None:
        plans.append(make_plan(swap_preset(config, other), target))
    _print(plans, console)
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps([plan_values(each) for each in plans], indent=1)
        replace_file(out / "plan.json", (text + "\n").encode())
        replace_file(out / "plan.html", render_plans(plans).encode())
    except OSError as error:
        raise ConfigError(f"--out={flags.out}: {error.strerror}") from None
    console.print(f"\n{out}/plan.json, {out}/plan.html", highlight=False)
    return plans


def swap_preset(config: TrainConfig, other: TrainConfig) -> TrainConfig:
    """Return a run with another preset's model and optimiser, all else being equal.

    How a model computes is no part of it: types, attention, and the remat policy if
    this run's is not its preset's own. Each preset's own policy suits its matrices: a
    dense model has no bottlenecks to keep.
    """
    own = PRESETS.get(config.preset)
    same = {name: getattr(config.model, name) for name in ("dtype", "attention")}
    if own is None or own.model.remat != config.model.remat:
        same["remat"] = config.model.remat
    return dataclasses.replace(
        config,
        preset=other.preset,
        model=dataclasses.replace(other.model, **same),
        optim=other.optim,
    )


def _print(plans: Sequence[Plan], console: Console) -> None:
    table = Table("", *(each.name for each in plans), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in compare_plans(plans).rows:
        table.add_row(*row)
    console.print(table, highlight=False)
    for note in note_plans(plans):
        console.print(f"\n{note}", highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        flags = parse_run_flags(Flags, words, program=PROGRAM)
        plans = plan(flags, console=Console())
    except (ConfigError, DataError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    return 3 if plans[0].memory.fits is False else 0


if __name__ == "__main__":
    sys.exit(run_printing_program(main))
