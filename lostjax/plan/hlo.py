"""Compiled programs as text, read: computations, instructions, how often they run.

XLA prints a compiled module as computations of instructions,

    %name = bf16[16,256]{1,0:T(8,128)S(1)} opcode(%operand, ...), attribute=..., ...

a kernel's over several lines. A loop's body stands there once; its trip count is in the
loop's own attributes (CPU, GPU) or the constant that its condition compares a counter
with (TPU).
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
"""Bytes of an element; float8 types have 1, tokens and opaque values 0."""

_SHAPE = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)"
)
_LISTED = re.compile(r"(?:called_computations|branch_computations)=\{([^}]*)\}")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_NAME = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
_END = re.compile(r'^\}(, execution_thread="[^"]*")?\s*$')
_COMMENT = re.compile(r"/\*.*?\*/")


class Shape(NamedTuple):
    """An array of a program."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool
    """Whether it lies in the chip's own memory (VMEM) rather than in its HBM."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes without padding."""
        each = ITEM_BYTES.get(self.dtype, 1.0 if "f8" in self.dtype else 0.0)
        return float(self.size * each)


@dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """Of its result: one, or the elements of a tuple."""
    operands: tuple[str, ...]
    """Names of instructions of the same computation."""
    argument: str
    """What stands between the opcode's parentheses."""
    attributes: str
    """What follows them."""
    is_root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        names = list(_CALLED.findall(self.attributes))
        for listed in _LISTED.findall(self.attributes):
            names += re.findall(r"%([\w.\-]+)", listed)
        return tuple(names)

    def attribute(self, name: str) -> str | None:
        """Give a called computation's name, such as that of `body`."""
        found = re.search(rf"\b{name}=%([\w.\-]+)", self.attributes)
        return found[1] if found else None

    def numbers(self, name: str) -> tuple[int, ...]:
        """Give an attribute that is a list of numbers, as `dimensions={0,1}`."""
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
        """Who uses each instruction's result."""
        users: dict[str, list[Instruction]] = {}
        for each in self.instructions:
            for operand in dict.fromkeys(each.operands):
                users.setdefault(operand, []).append(each)
        return {name: tuple(found) for name, found in users.items()}

    @property
    def root(self) -> Instruction:
        """What it returns."""
        return next(each for each in self.instructions if each.is_root)

    @property
    def parameters(self) -> list[Instruction]:
        """Its parameters by number."""
        found = [each for each in self.instructions if each.opcode == "parameter"]
        return sorted(found, key=lambda each: int(each.argument))


@dataclass(frozen=True)
class Program:
    """A compiled module."""

    entry: str
    computations: Mapping[str, Computation]

    def walk(self) -> Iterator[tuple[Computation, float]]:
        """Give every computation that is scheduled by itself, and how often it runs.

        Those are the entry, and what loops, calls and branches run; not the insides of
        fusions, reductions and the like. A computation that is called from two places
        comes twice. Of a conditional's branches every one is taken to run.
        """
        yield from self._walk(self.entry, 1.0)

    def _walk(self, name: str, times: float) -> Iterator[tuple[Computation, float]]:
        computation = self.computations[name]
        yield computation, times
        for each in computation.instructions:
            if each.opcode == "while":
                body = each.attribute("body")
                assert body is not None
                yield from self._walk(body, times * self.trip_count(each))
            elif each.opcode in ("call", "conditional", "async-start"):
                for called in each.called:
                    yield from self._walk(called, times)

    def walk_all(self) -> Iterator[tuple[Computation, float]]:
        """Give every computation with those inside fusions, and how often it runs."""
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

    def trip_count(self, loop: Instruction) -> int:
        """Count how often a loop runs.

        Raises:
          ValueError: where neither the loop nor its condition says so.
        """
        known = re.search(r'known_trip_count[^}]*"n":"?(\d+)', loop.attributes)
        if known:
            return int(known[1])
        name = loop.attribute("condition")
        assert name is not None
        bounds = self._bounds(self.computations[name])
        if len(bounds) != 1:
            raise ValueError(f"loop {loop.name}: its trip count is not a constant")
        return bounds[0]

    def _bounds(self, condition: Computation) -> list[int]:
        """List the constants that a condition, or a fusion in it, compares with."""
        found = []
        for each in condition.instructions:
            if each.opcode == "constant" and each.shapes[0].dtype in ("s32", "u32"):
                found.append(int(each.argument))
            for called in each.called:
                found += self._bounds(self.computations[called])
        return found


def parse_program(text: str) -> Program:
    """Read what `jax.stages.Compiled.as_text()` gives.

    Raises:
      ValueError: where it has no entry computation.
    """
    entry, computations = None, {}
    name = ""
    lines: list[str] = []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif _END.match(line):
            instructions = tuple(filter(None, map(_parse_line, lines)))
            computations[name] = Computation(name, instructions)
        elif _NAME.match(line) or not lines:
            lines.append(line)
        else:  # a kernel's configuration is JSON of several lines
            lines[-1] += line
    if entry is None:
        raise ValueError("no entry computation: not the text of a compiled program")
    return Program(entry, computations)


def _parse_line(line: str) -> Instruction | None:
    head = _NAME.match(line)
    if head is None:
        return None
    rest = _COMMENT.sub("", line[head.end() :])
    end = _closing(rest, 0) if rest.startswith("(") else _shape_end(rest)
    shapes, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest, 0) - 1
    argument = rest[: end - 1]
    return Instruction(
        name=head[2],
        opcode=opcode,
        shapes=tuple(map(_read_shape, _SHAPE.finditer(shapes))),
        operands=tuple(re.findall(r"%([\w.\-]+)", argument)),
        argument=argument,
        attributes=rest[end:],
        is_root=bool(head[1]),
    )


def _read_shape(found: re.Match[str]) -> Shape:
    dims = tuple(map(int, filter(None, found[2].split(","))))
    return Shape(found[1], dims, fast="S(1)" in (found[3] or ""))


def _shape_end(text: str) -> int:
    """Find where an array's shape and layout end: at the first space outside braces."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "{(") - (letter in "})")
        if letter == " " and depth == 0:
            return place
    return len(text)


def _closing(text: str, start: int) -> int:
    """Find the place after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    return len(text)
