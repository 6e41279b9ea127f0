"""The plan's estimates for the programs of the check, made beforehand and committed.

`--make-plan=h100:1,h200:1` compiles every program for chips that need not be there and
writes what `lostjax.plan` estimates, one entry after the other; a second run compiles
only what is missing. This part alone needs all of lostjax and the vendors' compilers.
"""

import datetime
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from device.forms import FORMS, LARGEST, ROWS, configure, largest, list_forms
from device.forms import SIZES as TIMED

FILE = Path(__file__).with_name("plans.json")
ROOT = Path(__file__).parents[2]
PREFIXES = {
    "NVIDIA H100": "h100:1",
    "NVIDIA H200": "h200:1",
    "TPU v5 lite": "v5e:1x1",
    "cpu": "here",
}
"""Topology by prefix of JAX's `device_kind`; `here` holds the toys of a dry run."""


def read_plans(device_kind: str) -> dict[str, Any]:
    """Return the committed estimates for a device by row; {} if there are none."""
    found = [name for kind, name in PREFIXES.items() if device_kind.startswith(kind)]
    plans: dict[str, Any] = _read().get(found[0], {}) if found else {}
    return plans


def make_plans(topologies: list[str]) -> None:
    """Compile and write all estimates that are not there yet."""
    for topology in topologies:
        kind = "tpu" if topology.startswith("v") else "gpu"
        toy = topology == "here"
        sizes = [size for size in TIMED if size in ROWS[kind]]
        for size in ["350m"] if toy else sizes:
            for name in list_forms(size):
                config = configure(size, FORMS[name], kind=kind, toy=toy)
                _add(topology, f"{size} {name}", [config])
        for size in LARGEST[kind]:
            start = 4 if toy else 256
            doubled = [start * 2**n for n in range(-4, 4) if start * 2**n >= 1]
            _add(
                topology,
                f"largest {size}",
                [largest(size, rows, kind=kind, toy=toy) for rows in doubled],
                first=doubled.index(start),
            )


def _add(topology: str, name: str, configs: list[Any], *, first: int = 0) -> None:
    """Write the plan of the last configuration that fits, from `first` up or down."""
    if name in _read().get(topology, {}):
        return
    place, best = first, None
    while 0 <= place < len(configs):
        plan = _plan(configs[place], topology)
        print(f"{topology} {name}: {plan['rows']} rows, {plan['peak'] / 1e9:.2f} GB")
        if plan["fits"]:
            best, place = plan, place + 1
        elif best or place > first:
            break
        else:
            place -= 1
        if len(configs) == 1:
            best = plan
    # Read again: another process may have written meanwhile.
    everything = _read()
    entries = everything.setdefault(topology, {})
    entries[name] = best
    entries["made"] = {
        "date": datetime.date.today().isoformat(),
        "jax": importlib.metadata.version("jax"),
    }
    FILE.write_text(json.dumps(everything, indent=1) + "\n")


def _read() -> dict[str, Any]:
    """Read all that is written so far."""
    everything: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return everything


def _plan(config: Any, topology: str) -> dict[str, Any]:
    from lostjax.plan.estimate import make_plan
    from lostjax.plan.targets import find_target

    plan = make_plan(config, find_target(topology))
    fits = plan.memory.fits
    if fits is None:  # a CPU: as much as the dry run says that it has
        fits = plan.memory.peak <= TOY_MEMORY
    return {
        "rows": config.batch_size,
        "fits": fits,
        "peak": plan.memory.peak,
        "seconds": None if plan.times is None else plan.times.step,
        "binding": None if plan.times is None else plan.times.binding,
    }


TOY_MEMORY = 3_000_000
"""Bytes that a dry run pretends to have: its largest batch is one of a few rows."""
