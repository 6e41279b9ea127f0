"""What a compiled program costs on each device: FLOPs, HBM bytes, collectives.

XLA's own cost analysis counts a loop's body once, whatever its trip count, so a model
whose layers are a scan would cost as much as one layer. Here every computation counts
as often as it runs.

    FLOPs        2 for each multiply-add of dots and convolutions (how TPUs write dots),
                 and what Pallas kernels say of themselves; nothing elementwise
    HBM bytes    operands and results of every scheduled instruction; of a fusion that
                 slices an operand the slice, of one that updates a part the part; what
                 lies in a TPU's VMEM is free
    collectives  a ring's bytes, sent and received once: (n - 1) / n of the whole array
                 for gathers, scatters and all-to-all, twice that for all-reduce

All three are static: nothing of them is measured.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lostjax.plan.hlo import Computation, Instruction, Program, Shape

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_FREE = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "after-all", "partition-id", "replica-id", "iota", "opt-barrier",
    "add-dependency", "copy-done", "slice-done", "async-start", "async-update",
    "async-done", "all-gather-done", "all-reduce-done", "collective-permute-done",
})  # fmt: skip


class Collective(NamedTuple):
    """Collectives of one kind over the same axes, all those of a step together."""

    kind: str
    axes: str
    """Mesh axes that it runs over, such as `fsdp` or `data+fsdp`."""
    times: float
    """How many run."""
    bytes: float
    """What a device sends, by the ring's formula."""


class Costs(NamedTuple):
    """What a program costs on each device."""

    flops: float
    hbm_bytes: float
    collectives: tuple[Collective, ...]

    @property
    def network_bytes(self) -> float:
        """What a device sends, in all."""
        return math.fsum(each.bytes for each in self.collectives)


def count_costs(program: Program, *, axes: Mapping[str, int]) -> Costs:
    """Count a program's costs.

    Args:
      program: compiled, for one of the devices.
      axes: mesh axis to size, in the order of the devices.

    Raises:
      ValueError: where a loop's trip count is not known.
    """
    flops = hbm_bytes = 0.0
    for computation, times in program.walk():
        for each in computation.instructions:
            hbm_bytes += times * _count_bytes(program, computation, each)
    for computation, times in _walk_all(program):
        for each in computation.instructions:
            flops += times * _count_flops(computation, each)
    return Costs(flops, hbm_bytes, _find_collectives(program, axes))


def _walk_all(program: Program) -> Sequence[tuple[Computation, float]]:
    """List every computation, with those inside fusions, and how often it runs."""
    found = []
    for computation, times in program.walk():
        found.append((computation, times))
        for each in computation.instructions:
            if each.opcode in ("fusion", "custom-call"):
                found += _fused(program, each, times)
    return found


def _fused(
    program: Program, caller: Instruction, times: float
) -> list[tuple[Computation, float]]:
    found = []
    for name in caller.called:
        computation = program.computations[name]
        found.append((computation, times))
        for each in computation.instructions:
            if each.opcode in ("fusion", "custom-call"):
                found += _fused(program, each, times)
    return found


# FLOPs


def _count_flops(computation: Computation, each: Instruction) -> float:
    if each.opcode == "dot":
        left = _shape(computation, each.operands[0])
        inner = [left.dims[axis] for axis in each.numbers("lhs_contracting_dims")]
        return 2.0 * each.shapes[0].size * math.prod(inner)
    if each.opcode == "convolution":
        return _count_convolution(computation, each)
    if each.opcode == "custom-call":
        said = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', each.attributes)
        if said:
            return float(said[1])
        if "cublas$gemm" in each.attributes or "cublas$lt$matmul" in each.attributes:
            return _count_gemm(computation, each)
    return 0.0


def _count_gemm(computation: Computation, each: Instruction) -> float:
    """Count a product that cuBLAS makes; its dimension numbers are its own JSON."""
    found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', each.attributes)
    left = _shape(computation, each.operands[0])
    axes = re.findall(r"\d+", found[1]) if found else []
    return 2.0 * each.shapes[0].size * math.prod(left.dims[int(axis)] for axis in axes)


def _count_convolution(computation: Computation, each: Instruction) -> float:
    """Count a convolution's multiply-adds, those with padding left out.

    A TPU's compiler writes batched products as convolutions whose windows fit at one
    place each: what is counted are pairs of an output and an input that exist.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    assert labels is not None
    left, kernel = (_shape(computation, name) for name in each.operands[:2])
    out = each.shapes[0]
    features = out.dims[labels[3].index("b")] * out.dims[labels[3].index("f")]
    inner = kernel.dims[labels[2].index("i")]
    window = _read_window(each.attributes)
    places = 1
    for axis in range(len(labels[1]) - 2):
        places *= _count_places(
            window.get(axis, {}),
            inputs=left.dims[labels[1].index(str(axis))],
            size=kernel.dims[labels[2].index(str(axis))],
            outputs=out.dims[labels[3].index(str(axis))],
        )
    return 2.0 * features * inner * places


def _read_window(attributes: str) -> dict[int, dict[str, tuple[int, ...]]]:
    """Read `window={size=3x1 pad=1_1x0_0}` as {axis: {name: numbers}}."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    window: dict[int, dict[str, tuple[int, ...]]] = {}
    for part in found[1].split() if found else []:
        name, _, values = part.partition("=")
        for axis, value in enumerate(values.split("x")):
            numbers = tuple(map(int, value.split("_")))
            window.setdefault(axis, {})[name] = numbers
    return window


def _count_places(
    window: Mapping[str, tuple[int, ...]], *, inputs: int, size: int, outputs: int
) -> int:
    """Count pairs of an output place and a window place that meet an input."""
    (stride,) = window.get("stride", (1,))
    (left_dilation,) = window.get("lhs_dilate", (1,))
    (right_dilation,) = window.get("rhs_dilate", (1,))
    low = window.get("pad", (0, 0))[0]
    place = np.arange(outputs)[:, None] * stride - low
    place = place + np.arange(size)[None, :] * right_dilation
    meets = (place >= 0) & (place <= (inputs - 1) * left_dilation)
    return int(np.sum(meets & (place % left_dilation == 0)))


# Bytes


def _count_bytes(
    program: Program, computation: Computation, each: Instruction
) -> float:
    if each.opcode in _FREE or each.opcode.removesuffix("-start") in KINDS:
        return 0.0
    operands = [_shapes(computation, name) for name in each.operands]
    if each.opcode in ("copy-start", "slice-start"):
        moved = each.shapes[0]
        sides = (moved.fast, *(shape.fast for shape in operands[0][:1]))
        return moved.bytes * sides.count(False)
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


# Collectives


def _find_collectives(
    program: Program, axes: Mapping[str, int]
) -> tuple[Collective, ...]:
    """Find collectives and join those of one kind over the same axes.

    A TPU's asynchronous collective stands in several fusions, its start, its steps and
    its end; they share its channel, and count once.
    """
    by_channel: dict[str, tuple[str, str, float, float]] = {}
    for computation, times in _walk_all(program):
        for each in computation.instructions:
            kind = each.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            found = re.search(r"channel_id=(\d+)", each.attributes)
            channel = f"{found[1] if found else each.name} {times}"
            sent, names = _count_sent(computation, each, kind=kind, axes=axes)
            by_channel[channel] = (kind, names, times, times * sent)
    totals: dict[tuple[str, str], tuple[float, float]] = {}
    for kind, names, times, sent in by_channel.values():
        count, before = totals.get((kind, names), (0.0, 0.0))
        totals[kind, names] = (count + times, before + sent)
    joined = [
        Collective(kind, names, times, sent)
        for (kind, names), (times, sent) in totals.items()
    ]
    return tuple(sorted(joined, key=lambda each: -each.bytes))


def _count_sent(
    computation: Computation, each: Instruction, *, kind: str, axes: Mapping[str, int]
) -> tuple[float, str]:
    """Count the bytes that a device sends, and name the axes that they go over."""
    given = [shape for name in each.operands for shape in _shapes(computation, name)]
    operand = math.fsum(shape.bytes for shape in given)
    if kind in ("collective-permute", "collective-broadcast"):
        return operand, _name_pairs(each.attributes, axes)
    groups = _read_groups(each.attributes, n_devices=math.prod(axes.values()))
    n = len(groups[0])
    rings = {
        "all-gather": (n - 1) * operand,
        "reduce-scatter": (n - 1) / n * operand,
        "all-reduce": 2 * (n - 1) / n * operand,
    }
    return rings.get(kind, (n - 1) / n * operand), _name_groups(groups, axes)


def _read_groups(attributes: str, *, n_devices: int) -> list[frozenset[int]]:
    """Read replica groups in any of the three ways that XLA writes them."""
    if found := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", attributes):
        lists = re.findall(r"\{([\d, ]*)\}", found[1])
        return [frozenset(map(int, re.findall(r"\d+", each))) for each in lists]
    if found := re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        shape, sizes = (_numbers(found[i]) for i in (1, 2))
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        if found[3]:
            ids = ids.transpose(_numbers(found[3]))
        return [frozenset(map(int, row)) for row in ids.reshape(shape)]
    if found := re.search(
        r"replica_groups=mesh\[([^\]]*)\]"
        r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}",
        attributes,
    ):
        named = re.findall(r"'([^']+)'=(\d+)", found[1])
        chosen = re.findall(r"'([^']+)'", found[4])
        sizes = tuple(int(size) for _, size in named)
        ids = np.arange(math.prod(sizes))
        if found[2]:
            ids = ids.reshape(_numbers(found[2]))
        if found[3]:
            ids = ids.transpose(_numbers(found[3]))
        ids = ids.reshape(sizes)
        last = [place for place, (name, _) in enumerate(named) if name in chosen]
        ids = np.moveaxis(ids, last, range(-len(last), 0))
        n = math.prod(sizes[place] for place in last)
        return [frozenset(map(int, row)) for row in ids.reshape(-1, n)]
    return [frozenset(range(n_devices))]


def _name_groups(groups: Sequence[frozenset[int]], axes: Mapping[str, int]) -> str:
    """Find the mesh axes along which these groups of devices lie."""
    sizes = tuple(axes.values())
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    names = [name for name, size in axes.items() if size > 1]
    for count in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, count):
            places = [list(axes).index(name) for name in chosen]
            moved = np.moveaxis(ids, places, range(-count, 0))
            rows = moved.reshape(-1, math.prod(sizes[place] for place in places))
            if set(groups) == {frozenset(map(int, row)) for row in rows}:
                return "+".join(chosen)
    return "some devices"


def _name_pairs(attributes: str, axes: Mapping[str, int]) -> str:
    """Find the axes along which a permutation moves anything."""
    found = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
    sizes = tuple(axes.values())
    moved = set()
    for source, target in re.findall(r"\{(\d+),(\d+)", found[1] + "}" if found else ""):
        ends = [np.unravel_index(int(end), sizes) for end in (source, target)]
        for name, here, there in zip(axes, *ends, strict=True):
            moved |= {name} if here != there else set()
    return "+".join(name for name in axes if name in moved) or "some devices"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
