"""Count the collectives of a compiled program, by kind and mesh axis.

The bytes of a collective are those that a device sends in a ring of n devices:
(n - 1) / n of the whole array for gathers, scatters and all-to-all, and twice that for
all-reduce.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lostjax.plan.hlo import Computation, Instruction, Program

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Collective(NamedTuple):
    """All collectives of a step that have one kind and the same axes."""

    kind: str
    """One of `KINDS`."""
    axes: str
    """Mesh axes that they run over, such as `fsdp` or `data+fsdp`."""
    times: float
    """Number of them in a step."""
    bytes: float
    """Bytes that a device sends in all of them, by the ring's formula."""


def find_collectives(
    program: Program, axes: Mapping[str, int]
) -> tuple[Collective, ...]:
    """Find the collectives of a program, and add up those of one kind and axes.

    A TPU's asynchronous collective is split over several fusions: its start, its steps
    and its end. They have the same channel, origin and shape, and are counted once. The
    channel alone does not identify a collective, because all those that `jax.shard_map`
    makes share one.

    Args:
      program: compiled, for one of the devices.
      axes: mesh axis to size, in the order of the devices.

    Returns:
      The collectives, those with the most bytes first.
    """
    scheduled = {computation.name for computation, _ in program.walk()}
    different: dict[object, tuple[str, str, float, float]] = {}
    for computation, times in program.walk_all():
        for each in computation.instructions:
            kind = each.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            itself: object = computation.name, each.name
            if computation.name not in scheduled:
                itself = _origin(each)
                kind = _kind_in_fusion(computation, each, kind)
            sent, names = _count_sent(computation, each, kind=kind, axes=axes)
            different[itself, times] = (kind, names, times, times * sent)
    totals: dict[tuple[str, str], tuple[float, float]] = {}
    for kind, names, times, sent in different.values():
        count, before = totals.get((kind, names), (0.0, 0.0))
        totals[kind, names] = (count + times, before + sent)
    joined = [
        Collective(kind, names, times, sent)
        for (kind, names), (times, sent) in totals.items()
    ]
    return tuple(sorted(joined, key=lambda each: -each.bytes))


def _kind_in_fusion(computation: Computation, each: Instruction, kind: str) -> str:
    """Return a collective's kind: a TPU's reduce-scatter is a sliced all-reduce."""
    users = computation.users.get(each.name, ())
    sliced = users and all(user.opcode == "dynamic-slice" for user in users)
    return "reduce-scatter" if kind == "all-reduce" and sliced else kind


def _origin(each: Instruction) -> object:
    """Return a key that is equal in all fusions of one asynchronous collective."""
    found = (
        re.search(pattern, each.attributes)
        for pattern in (r"channel_id=(\d+)", r'op_name="([^"]*)"')
    )
    dims = tuple(shape.dims for shape in each.shapes)
    return each.opcode, dims, *(one[1] if one else None for one in found)


def _count_sent(
    computation: Computation, each: Instruction, *, kind: str, axes: Mapping[str, int]
) -> tuple[float, str]:
    """Count the bytes that a device sends, and name the axes over which it sends."""
    given = [
        shape for name in each.operands for shape in computation.by_name[name].shapes
    ]
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
    """Parse replica groups, which XLA prints in three formats."""
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
    """Find the mesh axes whose devices form these groups."""
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
    """Find the mesh axes along which a permutation moves data."""
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
