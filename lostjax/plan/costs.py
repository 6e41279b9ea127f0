"""Count the costs of a compiled program per device: FLOPs, HBM bytes, collectives.

XLA's own cost analysis counts the body of a loop once, whatever its trip count: a model
that scans its layers would cost as much as one layer. Here a computation is counted as
often as it runs.

    FLOPs        2 per multiply-add of matrix products (see `flops`); elementwise
                 operations are not counted
    HBM bytes    operands and results of every scheduled instruction; for a fusion that
                 slices an operand only the slice, for one that updates part of an array
                 only the part; arrays in a TPU's VMEM are not counted
    collectives  bytes of a ring, sent and received once: (n - 1) / n of the whole array
                 for gathers, scatters and all-to-all, twice that for all-reduce

All three are static counts, not measurements, and cannot depend on data: every branch
of a conditional is counted, and a loop that runs until its data meet a condition is
counted once. `Costs` also holds the counts with the cheapest branches only, and the
names of such loops.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from lostjax.plan.collectives import KINDS, Collective, find_collectives
from lostjax.plan.flops import count_flops
from lostjax.plan.hlo import Computation, Instruction, Program, Shape

_FREE = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "after-all", "partition-id", "replica-id", "iota", "opt-barrier",
    "add-dependency", "copy-done", "slice-done", "async-start", "async-update",
    "async-done", "all-gather-done", "all-reduce-done", "collective-permute-done",
})  # fmt: skip


class Costs(NamedTuple):
    """The costs of a program on each device."""

    flops: float
    hbm_bytes: float
    collectives: tuple[Collective, ...]
    least_flops: float
    """FLOPs if every conditional runs its branch of fewest FLOPs."""
    least_hbm_bytes: float
    """HBM bytes if every conditional runs its branch of fewest bytes."""
    uncounted: tuple[str, ...]
    """JAX's names of loops whose trip count depends on data; their bodies are counted
    once."""
    has_cudnn: bool
    """Whether the program calls cuDNN, whose working memory its text does not state."""

    @property
    def network_bytes(self) -> float:
        """Bytes that a device sends in all collectives."""
        return math.fsum(each.bytes for each in self.collectives)


def sum_costs(first: Costs, second: Costs) -> Costs:
    """Add up the costs of two programs that run one after the other."""
    return Costs(
        flops=first.flops + second.flops,
        hbm_bytes=first.hbm_bytes + second.hbm_bytes,
        collectives=first.collectives + second.collectives,
        least_flops=first.least_flops + second.least_flops,
        least_hbm_bytes=first.least_hbm_bytes + second.least_hbm_bytes,
        uncounted=first.uncounted + second.uncounted,
        has_cudnn=first.has_cudnn or second.has_cudnn,
    )


def count_costs(program: Program, *, axes: Mapping[str, int]) -> Costs:
    """Count the costs of a program.

    Args:
      program: compiled, for one of the devices.
      axes: mesh axis to size, in the order of the devices.

    Returns:
      The costs per device.
    """

    def count_products(computation: Computation) -> float:
        own = (count_flops(computation, each) for each in computation.instructions)
        fused = (
            count_products(program.computations[called])
            for each in computation.instructions
            if each.opcode in ("fusion", "custom-call")
            for called in each.called
        )
        return math.fsum(itertools.chain(own, fused))

    def count_bytes(computation: Computation) -> float:
        return math.fsum(
            _count_bytes(program, computation, each)
            for each in computation.instructions
        )

    return Costs(
        flops=_add_up(program, count_products, branches=math.fsum),
        hbm_bytes=_add_up(program, count_bytes, branches=math.fsum),
        collectives=find_collectives(program, axes),
        least_flops=_add_up(program, count_products, branches=min),
        least_hbm_bytes=_add_up(program, count_bytes, branches=min),
        uncounted=program.uncounted_loops(),
        has_cudnn=any(
            each.opcode == "custom-call" and "__cudnn$" in each.attributes
            for computation in program.computations.values()
            for each in computation.instructions
        ),
    )


def _add_up(
    program: Program,
    count: Callable[[Computation], float],
    *,
    branches: Callable[[list[float]], float],
) -> float:
    """Sum the costs of all computations, each as often as it runs.

    Args:
      program: compiled.
      count: returns the cost of a computation, without those that it calls.
      branches: combines the costs of a conditional's branches into one.
    """

    @cache  # a computation may be called from many places
    def of(name: str) -> float:
        computation = program.computations[name]
        total = count(computation)
        for each in computation.instructions:
            if each.opcode == "while":
                body = each.attribute("body")
                assert body is not None
                trips = program.trip_count(each, within=computation)
                total += (1 if trips is None else trips) * of(body)
            elif each.opcode == "conditional":
                total += branches([of(called) for called in each.called])
            elif each.opcode in ("call", "async-start"):
                total += math.fsum(map(of, each.called))
        return total

    return of(program.entry)


def _count_bytes(
    program: Program, computation: Computation, each: Instruction
) -> float:
    if each.opcode in _FREE or each.opcode.removesuffix("-start") in KINDS:
        return 0.0
    operands = [_shapes(computation, name) for name in each.operands]
    if each.opcode in ("copy-start", "slice-start"):
        # The result of a copy is (new, old, ..), that of a slice ((old), new, ..).
        moved = each.shapes[each.opcode == "slice-start"]
        return moved.bytes * (moved.fast, operands[0][0].fast).count(False)
    if each.opcode == "fusion":
        (name,) = each.called
        return _count_fusion(program.computations[name], each, operands)
    results = math.fsum(map(_slow, each.shapes))
    if each.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * results
    if each.opcode == "dynamic-update-slice":
        return 2 * math.fsum(map(_slow, operands[1]))
    return results + math.fsum(map(_slow, itertools.chain(*operands)))


def _count_fusion(
    inner: Computation, each: Instruction, operands: list[tuple[Shape, ...]]
) -> float:
    total = 0.0
    for parameter, shapes in zip(inner.parameters, operands, strict=False):
        if any(map(_slow, shapes)):
            total += _count_read(inner, parameter)
    results = each.shapes
    roots = [inner.root]
    if inner.root.opcode == "tuple":
        roots = [inner.by_name[name] for name in inner.root.operands]
    for root, result in zip(roots, results, strict=False):
        written = result.bytes
        if root.opcode == "dynamic-update-slice":
            written = _shape(inner, root.operands[1]).bytes
        total += 0.0 if result.fast else written
    return total


def _count_read(inner: Computation, parameter: Instruction) -> float:
    """Count the bytes that a fusion reads of an operand; only slices if it slices."""
    whole = math.fsum(shape.bytes for shape in parameter.shapes)
    read = 0.0
    for user in inner.users.get(parameter.name, ()):
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            read += user.shapes[0].bytes
        elif (
            user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name
        ):
            continue  # updated in place
        elif user.opcode == "bitcast":
            read += _count_read(inner, user)
        else:
            return whole
    return min(whole, read)


def _slow(shape: Shape) -> float:
    return 0.0 if shape.fast else shape.bytes


def _shapes(computation: Computation, name: str) -> tuple[Shape, ...]:
    return computation.by_name[name].shapes


def _shape(computation: Computation, name: str) -> Shape:
    return _shapes(computation, name)[0]
