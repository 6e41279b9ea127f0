"""Plans side by side: as rows of text, as JSON, and as a page."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lostjax.plan.needs import Plan
from lostjax.train.config.fields import flat_fields
from lostjax.view.numbers import (
    MISSING,
    format_bytes,
    format_count,
    format_flops,
    format_seconds,
)
from lostjax.view.page import Table, render_page

_NOTE = (
    "Bytes and FLOPs are per device and step, read from the compiled program: static. "
    "What is marked est. is estimated: times from the chip's published peaks, as if "
    "computing, memory and network overlapped perfectly, so a step takes longer; "
    "activations from what autodiff keeps before the compiler fuses."
)

POOL = 0.75
"""Share of a GPU's memory that JAX sets aside unless XLA_CLIENT_MEM_FRACTION sets
another (docs.jax.dev, GPU memory allocation; the older name, with PYTHON_ in it, is
deprecated)."""

MANY = 3
"""Loops that are named; further ones are counted."""


def compare_plans(plans: Sequence[Plan]) -> Table:
    """Tabulate plans, a column each; rows that only some plans have come too."""
    columns = [_describe(plan) for plan in plans]
    names = list(dict.fromkeys(name for column in columns for name in column))
    return Table(
        "Per device and step",
        ("", *(plan.name for plan in plans)),
        [(name, *(each.get(name, MISSING) for each in columns)) for name in names],
    )


def state_fit(plan: Plan) -> str:
    """State whether a plan fits, and by how much."""
    memory = plan.memory
    if memory.capacity is None:
        return "not known"
    room = format_bytes(abs(memory.capacity - memory.peak))
    return f"yes, {room} to spare" if memory.fits else f"no, {room} too much"


def note_plans(plans: Sequence[Plan]) -> list[str]:
    """Explain the figures, and what they leave out for these plans.

    Returns:
      Paragraphs: one for all plans, then those for a single plan.
    """
    notes = [_NOTE, *_note_remat(plans)]
    for plan in plans:
        found = [
            *_note_branches(plan),
            *_note_loops(plan),
            *_note_pool(plan),
            *_note_workspace(plan),
        ]
        name = f"{plan.name}: " if len(plans) > 1 else ""
        notes += [note for note in (name + each for each in found) if note not in notes]
    return notes


def _note_remat(plans: Sequence[Plan]) -> Iterator[str]:
    """Note that plans of different models recompute differently."""
    policies = {plan.name: plan.config.model.remat for plan in plans}
    if len(policies) > 1 and len(set(policies.values())) > 1:
        each = ", ".join(f"{name} {remat}" for name, remat in policies.items())
        yield (
            f"The remat policies differ ({each}): so do recomputed FLOPs and "
            "activations. --model.remat=full or products plans both with one."
        )


def _note_branches(plan: Plan) -> Iterator[str]:
    """Note what is counted that a step may leave out, if that is 1 % or more."""
    costs, optim = plan.costs, plan.config.optim
    if costs is None or (
        costs.least_flops > 0.99 * costs.flops
        and costs.least_hbm_bytes > 0.99 * costs.hbm_bytes
    ):
        return
    what = "an update where it is finite"
    if optim.refreshes_subspaces:
        gap = optim.frugal.update_gap
        what += f", a subspace every --optim.frugal.update-gap={gap} steps"
    yield (
        f"All branches of conditions count in every step ({what}): with the least of "
        f"them alone it is {format_flops(costs.least_flops)} and "
        f"{format_bytes(costs.least_hbm_bytes)}."
    )


def _note_loops(plan: Plan) -> Iterator[str]:
    loops = () if plan.costs is None else plan.costs.uncounted
    if loops:
        named = ", ".join(loops[:MANY])
        more = f" and {len(loops) - MANY} more" if len(loops) > MANY else ""
        yield (
            "Loops whose trips depend on data count once, so that FLOPs and bytes are "
            f"too low by what they repeat: {named}{more}."
        )


def _note_pool(plan: Plan) -> Iterator[str]:
    """Note how to let JAX use the memory that a plan counts on, on GPUs."""
    memory = plan.memory
    if not plan.device.startswith("NVIDIA") or memory.capacity is None:
        return
    note = (
        f"On a GPU JAX sets {POOL:.0%} of the memory aside at its start, here "
        f"{format_bytes(POOL * memory.capacity)}"
    )
    if memory.fits and memory.peak > POOL * memory.capacity:
        share = math.ceil(100 * memory.peak / memory.capacity)
        note += (
            f": this run needs XLA_CLIENT_MEM_FRACTION={share / 100} or more in its "
            "environment"
        )
    yield f"{note}."


def _note_workspace(plan: Plan) -> Iterator[str]:
    if plan.costs is not None and plan.costs.has_cudnn:
        yield (
            "Attention is cuDNN's: what memory it works in is decided on a GPU, and is "
            "not in the peak."
        )


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON holds it."""
    return {
        "name": plan.name,
        "topology": plan.topology,
        "device": plan.device,
        "mesh": dict(plan.mesh),
        "micro_batches": plan.micro_batches,
        "fits": plan.memory.fits,
        "memory": plan.memory._asdict(),
        "flops": None if plan.costs is None else plan.costs.flops,
        "model_flops": plan.model_flops,
        "hbm_bytes": None if plan.costs is None else plan.costs.hbm_bytes,
        "collectives": [
            each._asdict() for each in (plan.costs.collectives if plan.costs else ())
        ],
        "least_flops": None if plan.costs is None else plan.costs.least_flops,
        "least_hbm_bytes": None if plan.costs is None else plan.costs.least_hbm_bytes,
        "uncounted_loops": [] if plan.costs is None else list(plan.costs.uncounted),
        "times": None if plan.times is None else plan.times._asdict(),
        "binding": None if plan.times is None else plan.times.binding,
        "step_seconds": None if plan.times is None else plan.times.step,
        "tokens": plan.tokens,
        "mfu": plan.mfu,
        "compile_seconds": round(plan.compile_seconds, 1),
        "configuration": flat_fields(plan.config),
    }


def render_plans(plans: Sequence[Plan]) -> str:
    """Render plans as one HTML page that needs nothing else."""
    names = " against ".join(plan.name for plan in plans)
    topology = plans[0].topology
    return render_page(
        "plan.html",
        {
            "title": f"Plan of {names}",
            "heading": names,
            "fit": state_fit(plans[0]),
            "hardware": "this machine" if topology == "here" else topology,
            "plans": compare_plans(plans),
            "notes": note_plans(plans),
        },
    )


def _describe(plan: Plan) -> dict[str, str]:
    """Describe a plan as text by row; parts of a row are indented under it."""
    return {
        **_describe_run(plan),
        **_describe_memory(plan),
        **_describe_costs(plan),
        **_describe_times(plan),
        "compiling took": format_seconds(plan.compile_seconds),
    }


def _describe_run(plan: Plan) -> dict[str, str]:
    config = plan.config
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1)
    return {
        "devices": f"{math.prod(plan.mesh.values())} x {plan.device}",
        "mesh": mesh or "1 device",
        "rows x tokens": f"{config.batch_size} x {config.data.seq_len}"
        + (f" in {plan.micro_batches} parts" if plan.micro_batches > 1 else ""),
        "optimiser, remat": f"{config.optim.name}, {config.model.remat}",
        "products, attention": f"{config.model.product}, {config.model.attention}",
    }


def _describe_memory(plan: Plan) -> dict[str, str]:
    memory = plan.memory
    rows = {
        "fits": state_fit(plan),
        "peak memory": format_bytes(memory.peak)
        + (f" of {format_bytes(memory.capacity)}" if memory.capacity else ""),
        "  parameters": format_bytes(memory.parameters),
        "  optimiser state": format_bytes(memory.optimizer),
    }
    if memory.reference:
        rows["  reference"] = format_bytes(memory.reference)
    if memory.temporaries is not None:
        rows["  temporaries"] = format_bytes(memory.temporaries)
    rows["    gradients, est."] = format_bytes(memory.gradients)
    rows["    activations, est."] = format_bytes(memory.activations)
    return rows


def _describe_costs(plan: Plan) -> dict[str, str]:
    costs = plan.costs
    if costs is None:
        return {}
    rows = {
        "FLOPs": format_flops(costs.flops),
        "  of the model, est.": format_flops(plan.model_flops),
        "HBM bytes": format_bytes(costs.hbm_bytes),
        "sent bytes": format_bytes(costs.network_bytes),
    }
    for each in costs.collectives:
        if each.bytes >= 0.001 * costs.network_bytes:
            times = format_count(each.times)
            name = f"  {each.kind} over {each.axes}"
            rows[name] = f"{format_bytes(each.bytes)} in {times}"
    return rows


def _describe_times(plan: Plan) -> dict[str, str]:
    times = plan.times
    if times is None:
        return {}
    rows = {
        f"{name} time, est.": _format_time(seconds)
        for name, seconds in times._asdict().items()
    }
    return rows | {
        "binding, est.": times.binding,
        "step takes at least, est.": _format_time(times.step),
        "tokens/s at most, est.": format_count(plan.tokens / times.step),
        "MFU at most, est.": f"{plan.mfu:.2f}",
    }


def _format_time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else format_seconds(seconds)
