"""The largest batch that fits some hardware: dense, LOST, and LOST with FRUGAL.

    python benchmarks/plans.py --topology h100:1 --size 1b
    python benchmarks/plans.py --topology h100:1 --size 1b --attention cudnn
    python benchmarks/plans.py --topology v5e:4x4 --mesh fsdp:16 --size 7b

Doubles the rows of a step until they do not fit (or halves them until they do),
compiling each with the vendor's own compiler (`pip install libtpu`,
`pip install 'jax[cuda12]'`). Nothing runs: every figure is static, and times and MFU
are estimates from published peaks.
"""

import argparse
import dataclasses
from typing import get_args

from lostjax.plan.estimate import make_plan
from lostjax.plan.needs import Memory, Plan
from lostjax.plan.targets import find_target
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import AttentionName
from lostjax.train.devices.platform import settle_platform

FORMS = ("dense, AdamW", "LOST, AdamW", "LOST, FRUGAL")
START = 64
"""Rows on each device to begin with."""
HEADS = (
    "model", "rows", "peak GB", "state GB", "sent GB", "binds", "tokens/s", "MFU",
)  # fmt: skip


def find_largest(
    form: str, *, size: str, mesh: str, topology: str, attention: AttentionName
) -> Plan | None:
    """Find the most rows of a step that fit, a power of two on each device."""
    target = find_target(topology)
    preset = get_preset(f"{'llama' if form.startswith('dense') else 'lost'}_{size}")
    name = "frugal" if form.endswith("FRUGAL") else "adamw"
    config = dataclasses.replace(
        preset,
        mesh=mesh,
        # Every model recomputes all that it can: it is memory that is compared.
        model=dataclasses.replace(preset.model, remat="full", attention=attention),
        optim=dataclasses.replace(preset.optim, name=name),
    )
    best, rows = None, START * len(target.devices)
    while rows >= len(target.devices):
        plan = make_plan(dataclasses.replace(config, batch_size=rows), target)
        memory = plan.memory
        print(f"  {form}: {rows} rows, peak {memory.peak / 1e9:.2f} GB", flush=True)
        if memory.fits:
            best, rows = plan, 2 * rows
        elif best is not None or _is_hopeless(memory):
            break
        else:
            rows //= 2
    return best


def _is_hopeless(memory: Memory) -> bool:
    """Say whether the state alone is too large."""
    assert memory.capacity is not None
    return memory.parameters + memory.optimizer > memory.capacity


def describe(form: str, plan: Plan | None) -> list[str]:
    """Write a plan's cells."""
    if plan is None or plan.costs is None or plan.times is None:
        return [form, "none", *[""] * (len(HEADS) - 2)]
    memory = plan.memory
    return [
        form,
        str(plan.config.batch_size),
        f"{memory.peak / 1e9:.1f}",
        f"{(memory.parameters + memory.optimizer) / 1e9:.2f}",
        f"{plan.costs.network_bytes / 1e9:.2f}",
        plan.times.binding,
        f"{plan.tokens / plan.times.step:,.0f}",
        f"{plan.mfu:.2f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="h100:1")
    parser.add_argument("--mesh", default="data:1")
    parser.add_argument("--size", default="1b")
    parser.add_argument("--attention", default="xla", choices=get_args(AttentionName))
    options = parser.parse_args()
    settle_platform()
    rows = [describe(form, find_largest(form, **vars(options))) for form in FORMS]
    for row in [list(HEADS), ["---"] + ["---:"] * (len(HEADS) - 1), *rows]:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
