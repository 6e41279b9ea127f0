"""Parse the text of a compiled program.

XLA prints a compiled module as computations, which are lists of instructions:

    %name = bf16[16,256]{1,0:T(8,128)S(1)} opcode(%operand, ...), attribute=..., ...

The instruction of a kernel may take several lines.
"""

import re

from lostjax.plan.hlo import Computation, Instruction, Program, Shape

_SHAPE = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_NAME = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
_END = re.compile(r'^\}(, execution_thread="[^"]*")?\s*$')
_COMMENT = re.compile(r"/\*.*?\*/")


def parse_program(text: str) -> Program:
    """Parse the result of `jax.stages.Compiled.as_text()`.

    Returns:
      The program.

    Raises:
      ValueError: if the text has no entry computation.
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
        else:  # a kernel's configuration is JSON on several lines
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
    """Find the end of an array's shape and layout: the first space outside braces."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "{(") - (letter in "})")
        if letter == " " and depth == 0:
            return place
    return len(text)


def _closing(text: str, start: int) -> int:
    """Find the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    return len(text)
