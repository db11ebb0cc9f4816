"""Reads the text of a compiled program (XLA's optimized HLO): one line is one instruction."""

import math
import re
from typing import NamedTuple

BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2,
    "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0, "opaque": 0,
}  # fmt: skip
"""Size of each type of number."""


class Instruction(NamedTuple):
    """One line of HLO."""

    name: str
    shape: str
    """The shape as written in HLO: "f32[8,64]{1,0}", or a tuple of shapes."""
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def called(self) -> list[str]:
        """The names of the computations that it calls."""
        single = re.findall(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", self.attributes)
        several = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        return single + ([name.strip(" %") for name in several[1].split(",")] if several else [])


def bytes_of(shape: str, on_chip: bool = False) -> float:
    """Returns the size in bytes of an array, or of a tuple of arrays, in the device's main memory.

    What a TPU keeps on the chip, in memory space 1, is only counted with `on_chip`.
    """
    total = 0.0
    for kind, dims, layout in re.findall(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", shape):
        if on_chip or not layout.endswith("S(1)}"):
            total += BYTES.get(kind, 4) * math.prod(int(d) for d in dims.split(",") if d)
    return total


def dims_of(shape: str) -> list[int]:
    """Returns the dimensions of an array; for a tuple, those of its first array."""
    found = re.search(r"\[([\d,]*)\]", shape)
    return [int(d) for d in found[1].split(",") if d] if found else []


def instruction_of(line: str) -> Instruction | None:
    """Parses a line. None if it is not an instruction."""
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    stop = _closing("(" + rest, 0) - 1
    inside, attributes = rest[:stop], rest[stop + 1 :].lstrip(", ")
    if opcode in ("parameter", "constant"):
        return Instruction(head[2], shape, opcode, (), inside, bool(head[1]))
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or tuple(
        word.split()[-1] for word in inside.split(", ") if word.strip()
    )
    return Instruction(head[2], shape, opcode, operands, attributes, bool(head[1]))


def group_size(attributes: str) -> int | None:
    """Returns the number of devices among which a collective runs, in each of the ways of writing it; None for all."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):  # {{0,1},{2,3}}
        return listed[1].count(",") + 1
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):  # [2,2]<=[4]: 2 groups of 2
        return int(counted[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes):  # mesh['x'=2,'y'=2] {'y'}
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return None


def parts_of(shape: str) -> list[str]:
    """Returns the shapes of a tuple's elements."""
    parts, depth, start = [], 0, 1
    for index, character in enumerate(shape):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or depth == 0:
            parts.append(re.sub(r"/\*.*?\*/", "", shape[start:index]).strip())
            start = index + 1
    return parts


def _closing(text: str, start: int) -> int:
    """Returns the index of the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        if text[index] in "([{":
            depth += 1
        elif text[index] in ")]}":
            depth -= 1
            if depth == 0:
                return index
    return len(text)
