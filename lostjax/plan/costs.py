"""What a compiled program costs on each device: FLOPs, HBM bytes, collectives.

XLA's own cost analysis counts a loop's body once, whatever its trip count, so a model
whose layers are a scan would cost as much as one layer. Here every computation counts
as often as it runs.

    FLOPs        2 for each multiply-add of products (see `flops`); nothing elementwise
    HBM bytes    operands and results of every scheduled instruction; of a fusion that
                 slices an operand the slice, of one that updates a part the part; what
                 lies in a TPU's VMEM is free
    collectives  a ring's bytes, sent and received once: (n - 1) / n of the whole array
                 for gathers, scatters and all-to-all, twice that for all-reduce

All three are static: nothing of them is measured. What a program decides while it runs
is not in its text: every branch of a condition counts, and a loop that runs until its
data tell it to stop counts once. `Costs` says how much of either there is.
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
    """What a program costs on each device."""

    flops: float
    hbm_bytes: float
    collectives: tuple[Collective, ...]
    least_flops: float
    """Where of every condition only the branch of fewest FLOPs runs."""
    least_hbm_bytes: float
    """Where of every condition only the branch of fewest bytes runs."""
    uncounted: tuple[str, ...]
    """Loops whose trips depend on data, as JAX names them; their bodies count once."""
    has_cudnn: bool
    """Whether it calls cuDNN, whose working memory a program does not state."""

    @property
    def network_bytes(self) -> float:
        """What a device sends, in all."""
        return math.fsum(each.bytes for each in self.collectives)


def count_costs(program: Program, *, axes: Mapping[str, int]) -> Costs:
    """Count a program's costs.

    Args:
      program: compiled, for one of the devices.
      axes: mesh axis to size, in the order of the devices.
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
    """Add up what computations cost by themselves, as often as they run.

    Args:
      program: compiled.
      count: what a computation costs, without those that it calls.
      branches: makes one number of those of a condition's branches.
    """

    @cache
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
        # A copy's result is (new, old, ..), a slice's ((old), new, ..).
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
    """Count what a fusion reads of an operand: where it only slices, the slices."""
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
