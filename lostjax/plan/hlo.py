"""Represent a compiled program: its computations, instructions and trip counts.

A program contains the body of a loop once. Its trip count is an attribute of the loop
(CPU, GPU), or follows from the start of the loop's counter, the constant that the body
adds to it and the constant bound of the condition (TPU, which adds two in loops that
pass pieces around a ring in both directions). If the trip count depends on data, as in
an iteration until convergence, the loop is counted once, and `uncounted_loops` returns
its name.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

ITEM_BYTES: dict[str, float] = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4,
    "u32": 4, "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8,
    "c128": 16,
}  # fmt: skip
"""Bytes of an element; other types are float8, of 1 byte, or tokens, of 0 bytes."""

_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)"
)
_LISTED = re.compile(r"(?:called_computations|branch_computations)=\{([^}]*)\}")


class Shape(NamedTuple):
    """An array of a program."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool
    """Whether it is in VMEM, the chip's own memory, and not in HBM."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Size in bytes, without padding."""
        each = ITEM_BYTES.get(self.dtype, 1.0 if "f8" in self.dtype else 0.0)
        return float(self.size * each)


@dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """Shape of its result, or the shapes of a tuple's elements."""
    operands: tuple[str, ...]
    """Names of instructions of the same computation."""
    argument: str
    """Text between the parentheses after the opcode."""
    attributes: str
    """Text after the parentheses."""
    is_root: bool
    """Whether its result is that of the computation."""

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        names = list(_CALLED.findall(self.attributes))
        for listed in _LISTED.findall(self.attributes):
            names += re.findall(r"%([\w.\-]+)", listed)
        return tuple(names)

    @property
    def origin(self) -> str:
        """JAX's name of the operation that it was made from, or else its own name."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else self.name

    @property
    def element(self) -> int:
        """Index of the tuple's element that a `get-tuple-element` returns."""
        found = re.search(r"\bindex=(\d+)", self.attributes)
        assert found is not None
        return int(found[1])

    def attribute(self, name: str) -> str | None:
        """Return the computation that an attribute such as `body` names, or None."""
        found = re.search(rf"\b{name}=%([\w.\-]+)", self.attributes)
        return found[1] if found else None

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return an attribute that is a list of numbers, such as `dimensions={0,1}`."""
        found = re.search(rf"\b{name}=\{{([0-9,]*)\}}", self.attributes)
        return tuple(map(int, filter(None, found[1].split(",")))) if found else ()


@dataclass(frozen=True)
class Computation:
    """A named list of instructions."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """Its instructions by name."""
        return {each.name: each for each in self.instructions}

    @cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        """The instructions that use a result, by the name of its instruction."""
        users: dict[str, list[Instruction]] = {}
        for each in self.instructions:
            for operand in dict.fromkeys(each.operands):
                users.setdefault(operand, []).append(each)
        return {name: tuple(found) for name, found in users.items()}

    @property
    def root(self) -> Instruction:
        """The instruction whose result the computation returns."""
        return next(each for each in self.instructions if each.is_root)

    @property
    def parameters(self) -> list[Instruction]:
        """Its parameters, sorted by number."""
        found = [each for each in self.instructions if each.opcode == "parameter"]
        return sorted(found, key=lambda each: int(each.argument))


@dataclass(frozen=True)
class Program:
    """A compiled module."""

    entry: str
    """Name of the computation that runs first."""
    computations: Mapping[str, Computation]
    """Computations by name."""

    def walk(self) -> Iterator[tuple[Computation, float]]:
        """Yield every scheduled computation, and how often it runs.

        Scheduled computations are the entry, and those that loops, calls and
        conditionals run, but not those inside fusions, reductions and the like. A
        computation that is called from two places is yielded twice. Every branch of a
        conditional is assumed to run, and a loop of unknown trip count to run once.
        """
        yield from self._walk(self.entry, 1.0)

    def _walk(self, name: str, times: float) -> Iterator[tuple[Computation, float]]:
        computation = self.computations[name]
        yield computation, times
        for each in computation.instructions:
            if each.opcode == "while":
                body = each.attribute("body")
                assert body is not None
                trips = self.trip_count(each, within=computation)
                yield from self._walk(body, times * (1 if trips is None else trips))
            elif each.opcode in ("call", "conditional", "async-start"):
                for called in each.called:
                    yield from self._walk(called, times)

    def walk_all(self) -> Iterator[tuple[Computation, float]]:
        """Yield every computation, also those in fusions, and how often it runs."""
        for computation, times in self.walk():
            yield from self._inside(computation, times)

    def _inside(
        self, computation: Computation, times: float
    ) -> Iterator[tuple[Computation, float]]:
        yield computation, times
        for each in computation.instructions:
            if each.opcode in ("fusion", "custom-call"):
                for called in each.called:
                    yield from self._inside(self.computations[called], times)

    def uncounted_loops(self) -> tuple[str, ...]:
        """Return the origins of the loops of unknown trip count, each once."""
        loops = (
            each.origin
            for computation, _ in self.walk()
            for each in computation.instructions
            if each.opcode == "while"
            and self.trip_count(each, within=computation) is None
        )
        return tuple(dict.fromkeys(loops))

    def trip_count(self, loop: Instruction, *, within: Computation) -> int | None:
        """Compute how often the body of a loop runs.

        Args:
          loop: a `while` instruction.
          within: the computation that contains it.

        Returns:
          The count; None if it depends on data, or has an unknown form.
        """
        known = re.search(r'known_trip_count[^}]*"n":"?(\d+)', loop.attributes)
        if known:
            return int(known[1])
        condition, body = loop.attribute("condition"), loop.attribute("body")
        assert condition is not None and body is not None
        found = _read_bound(self.computations[condition])
        if found is not None:
            index, bound = found
            step = _read_step(self.computations[body], index)
            start = _read_start(within, loop, index)
            if start is not None and step:
                return max(0, -((start - bound) // step))
        return None


def _read_bound(condition: Computation) -> tuple[int, int] | None:
    """Find the index of a loop's counter in its state, and the counter's bound."""
    test = condition.root
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, bound = (_behind_copies(condition, name) for name in test.operands)
    if counter.opcode != "get-tuple-element" or bound.opcode != "constant":
        return None
    return counter.element, int(bound.argument)


def _read_step(body: Computation, index: int) -> int | None:
    """Find the constant that the body of a loop adds to an element of its state."""
    if body.root.opcode != "tuple":
        return None
    after = _behind_copies(body, body.root.operands[index])
    if after.opcode != "add":
        return None
    terms = [_behind_copies(body, name) for name in after.operands]
    before = [each for each in terms if each.opcode == "get-tuple-element"]
    steps = [int(each.argument) for each in terms if each.opcode == "constant"]
    if [each.element for each in before] != [index] or len(steps) != 1:
        return None
    return steps[0]


def _read_start(within: Computation, loop: Instruction, index: int) -> int | None:
    """Find the constant initial value of an element of a loop's state."""
    state = within.by_name[loop.operands[0]]
    if state.opcode != "tuple":
        return None
    start = _behind_copies(within, state.operands[index])
    return int(start.argument) if start.opcode == "constant" else None


def _behind_copies(computation: Computation, name: str) -> Instruction:
    each = computation.by_name[name]
    while each.opcode in ("copy", "bitcast"):
        each = computation.by_name[each.operands[0]]
    return each
