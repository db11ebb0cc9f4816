"""What a compiled program (XLA's optimized HLO) costs: the bytes and floating-point operations of each kernel.

Each operation of the entry computation is one kernel, or a library call such as a matrix product. It reads its
operands from the device's memory and writes its results there; intermediate values inside a fused kernel stay on the
chip. The time of a memory-bound kernel is therefore its bytes divided by the bandwidth, and the time of a while loop is
that of its body times its trip count.
"""

import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from experiments.planning.instructions import Instruction, bytes_of, dims_of, group_size, instruction_of, parts_of
from transformer.config import UserError

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "domain", "iota", "add-dependency",
}  # fmt: skip
"""Operations without memory traffic: aliases of existing arrays, or values that the next kernel generates itself."""

STATED_FLOPS = r'serialized_metadata = "\{\\22flops\\22: \\22(\d+)'
"""Of a kernel of transformer/kernels: what it computes, in its own words, since XLA does not look into it."""

CUSTOM_CALL = r'custom_call_target="(\w+)"'

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_UNKNOWN = 2**63 - 1
"""What the TPU compiler writes for cycles that it cannot estimate."""


class Kernel(NamedTuple):
    """One unit of execution on a device: a fusion, a library call, a copy, or a collective."""

    name: str
    opcode: str
    times: int
    """Number of executions in one run of the program: the product of the trip counts of the loops around it."""
    bytes: float
    """Bytes read and written, summed over these executions."""
    flops: float
    """FLOPs of its matrix products and convolutions, summed over these executions."""
    op_name: str
    """JAX's name for the operation: the functions and transformations that produced it."""
    frames: tuple["Frame", ...]
    """The Python call stack that produced it, innermost first; empty if the compiler added the operation."""
    network_bytes: float = 0.0
    """For a collective: bytes that each device sends, summed over these executions."""
    done: int | None = None
    """For an asynchronous collective: number of kernels started before the program waits for the result."""
    is_own: bool = False
    """Whether it is one of transformer/kernels and not the compiler's or a library's."""
    cycles: float = 0.0
    """Clock cycles of these executions as a TPU's compiler estimates them; 0 if it does not."""
    is_aside: bool = False
    """Whether a TPU does it beside other kernels: arithmetic with scalars, or an asynchronous copy."""


class Frame(NamedTuple):
    """A stack frame: a line of Python code."""

    file: str
    function: str
    line: int


class Program:
    """A compiled program, parsed from the text of its optimized HLO. UserError for any other text."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        self._frames_text = text[: text.find("\nENTRY")] if "\nENTRY" in text else ""
        header = text.partition("\n")[0]
        counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header)
        self.devices = math.prod(map(int, counts))
        """Number of devices that the program runs on."""
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            if not line.startswith(" "):
                head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
                if head and not line.startswith("HloModule"):
                    current = self.computations.setdefault(head[2], {})
                    self.entry = head[2] if head[1] else self.entry
                elif line.startswith("}"):
                    current = None
            elif current is not None and (found := instruction_of(line)):
                current[found.name] = found
        if not self.entry:
            raise UserError("this is not the text of a compiled program (optimized HLO): it has no entry computation")

    @cached_property
    def frames(self) -> dict[int, tuple[Frame, ...]]:
        """The call stack of each stack_frame_id, innermost frame first."""
        tables: dict[str, dict[int, str]] = {}
        table: dict[int, str] | None = None
        for line in self._frames_text.splitlines():
            if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                table = tables.setdefault(line, {})
            elif table is not None and (row := re.match(r"(\d+) (.*)", line)):
                table[int(row[1])] = row[2].strip('"')
            elif line.strip():
                table = None
        if "StackFrames" not in tables:
            return {}
        place = {}
        for number, location in tables["FileLocations"].items():
            fields = dict(re.findall(r"(\w+)=(\d+)", location))
            file = tables["FileNames"].get(int(fields["file_name_id"]), "")
            function = tables["FunctionNames"].get(int(fields["function_name_id"]), "")
            place[number] = Frame(file, function, int(fields["line"]))
        rows = {n: dict(re.findall(r"(\w+)=(\d+)", frame)) for n, frame in tables["StackFrames"].items()}
        # XLA adds 1 to the parent's number. Without this correction the first frame would be its own parent.
        more = int(rows.get(1, {}).get("parent_frame_id", 0))
        stacks: dict[int, tuple[Frame, ...]] = {0: ()}
        for number, fields in sorted(rows.items()):  # parents precede their children
            parent = int(fields.get("parent_frame_id", more)) - more
            stacks[number] = (place[int(fields["file_location_id"])], *stacks.get(parent, ()))
        return stacks

    def kernels(self) -> list[Kernel]:
        """Returns all kernels that a run of the program executes, in the order of the compiler's schedule."""
        found: list[Kernel] = []
        started: dict[str, int] = {}
        for kernel in self._kernels(self.entry, 1):
            if kernel.opcode.endswith("-done"):
                if (position := started.pop(kernel.name, None)) is not None:
                    found[position] = found[position]._replace(done=len(found))
                continue
            if kernel.opcode.removesuffix("-start") in COLLECTIVES and kernel.opcode.endswith("-start"):
                started[kernel.name] = len(found)
            found.append(kernel)
        return found

    def _kernels(self, computation: str, times: int) -> Iterator[Kernel]:
        instructions = self.computations[computation]
        for instruction in instructions.values():
            opcode = instruction.opcode
            if opcode in _FREE or '"ConcatBitcast"' in instruction.attributes:
                continue
            if opcode.endswith("-done"):  # named after the operation that it waits for
                yield Kernel(instruction.operands[0], opcode, times, 0.0, 0.0, "", ())
                continue
            if opcode in ("fusion-start", "copy-start", "slice-start"):
                # Their shape is a tuple, with the result as its first element (copies) or its second.
                parts = parts_of(instruction.shape)
                whole = instruction._replace(
                    shape=parts[0] if opcode == "copy-start" else parts[1], opcode=opcode.removesuffix("-start")
                )
                yield self._kernel(whole, instructions, times)._replace(is_aside=opcode != "fusion-start")
            elif opcode == "fusion" and (inner := self._collective_in(instruction)):
                yield from self._fused_collective(instruction, inner, instructions, times)
            elif opcode == "while":
                body = re.search(r"body=%?([\w.\-]+)", instruction.attributes)
                assert body
                yield from self._kernels(body[1], times * self._trips(instruction))
            elif opcode == "conditional":
                branches = [list(self._kernels(name, times)) for name in instruction.called]
                yield from max(branches, key=lambda kernels: sum(kernel.bytes for kernel in kernels), default=[])
            elif opcode == "call":
                yield from self._kernels(instruction.called[0], times)
            elif opcode == "async-start" and instruction.called:
                for kernel in self._kernels(instruction.called[0], times):
                    is_collective = kernel.opcode in COLLECTIVES
                    opcode = f"{kernel.opcode}-start" if is_collective else kernel.opcode
                    yield kernel._replace(name=instruction.name if is_collective else kernel.name, opcode=opcode)
            else:
                yield self._kernel(instruction, instructions, times)

    def _collective_in(self, fusion: Instruction) -> Instruction | None:
        """Returns the collective that a fusion of a TPU contains, if it does."""
        inside = self.computations[fusion.called[0]].values()
        return next((one for one in inside if one.opcode in COLLECTIVES), None)

    def _fused_collective(
        self, fusion: Instruction, collective: Instruction, around: dict[str, Instruction], times: int
    ) -> Iterator[Kernel]:
        """Yields the kernels of a fusion with a collective in it.

        A TPU's compiler writes an asynchronous collective as two fusions, one to start it and one to wait for it, and
        repeats it, with the same channel, in each matmul's fusion during which it is under way. It writes a
        reduce-scatter as the fusion of an all-reduce with the slices that the device keeps.
        """
        inside = self.computations[fusion.called[0]]
        targets = {found[1] for one in inside.values() if (found := re.search(CUSTOM_CALL, one.attributes))}
        channel = re.search(r"channel_id=(\d+)", collective.attributes)
        name = f"channel {channel[1]}" if channel else fusion.name
        if "AsyncCollectiveDone" in targets:
            yield Kernel(name, "all-gather-done", times, 0.0, 0.0, "", ())
        elif "AsyncCollectiveStart" in targets:
            started = self._kernel(collective, inside, times)
            yield started._replace(name=name, opcode=f"{collective.opcode}-start")
        elif fusion.called[0].startswith("async_collective_fusion"):
            yield self._kernel(fusion, around, times)
        else:
            kernel = self._kernel(collective, inside, times)
            if collective.opcode == "all-reduce" and any(one.opcode == "dynamic-slice" for one in inside.values()):
                kernel = kernel._replace(opcode="reduce-scatter", network_bytes=kernel.network_bytes / 2)
            yield kernel._replace(name=fusion.name)

    def _sent(self, collective: Instruction, operands: list[str]) -> float:
        """Returns the bytes that each device sends in a collective, whose arrays may be anywhere on the device.

        In a ring of n devices, each passes on (n - 1) / n of the whole array, and in an all-reduce twice.
        """
        kind = collective.opcode.removesuffix("-start")
        given = sum(bytes_of(shape, on_chip=True) for shape in operands)
        if kind == "collective-permute":
            return given
        result = bytes_of(collective.shape, on_chip=True)
        whole = max(given, result - (given if collective.opcode.endswith("-start") else 0))
        group = group_size(collective.attributes) or self.devices
        return (2 if kind == "all-reduce" else 1) * (group - 1) / group * whole

    def _trips(self, loop: Instruction) -> int:
        """Returns the trip count of a while loop: as the compiler states it, or the limit of its counter, or 1."""
        if stated := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(stated[1])
        condition = self.computations[re.search(r"condition=%?([\w.\-]+)", loop.attributes)[1]]  # type: ignore[index]
        root = next(instruction for instruction in condition.values() if instruction.root)
        limits = [condition[name].attributes for name in root.operands if condition[name].opcode == "constant"]
        return int(limits[0]) if "direction=LT" in root.attributes and limits else 1

    def _kernel(self, instruction: Instruction, around: dict[str, Instruction], times: int) -> Kernel:
        opcode = instruction.opcode
        op_name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', instruction.attributes)
        number = re.search(r"stack_frame_id=(\d+)", instruction.attributes)
        frames = self.frames.get(int(number[1]), ()) if number else ()
        if not frames and (line := re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.attributes)):
            frames = (Frame(line[1], "", int(line[2])),)
        # The results of a library call include its workspace, an array of bytes: do not count it.
        shape = re.sub(r"s8\[\d+\]", "", instruction.shape) if opcode == "custom-call" else instruction.shape
        written = bytes_of(shape)
        operands = [around[name].shape for name in instruction.operands if name in around]
        read = sum(map(bytes_of, operands))
        network = 0.0
        if opcode == "fusion":
            read, written = self._fusion_bytes(instruction, around)
        elif opcode in ("dynamic-slice", "slice", "gather"):
            read = written
        elif opcode == "dynamic-update-slice":
            read = written = bytes_of(around[instruction.operands[1]].shape)
        elif opcode.removesuffix("-start") in COLLECTIVES:
            network = self._sent(instruction, operands)
            written = max(read, written - (read if opcode.endswith("-start") else 0))
        cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
        return Kernel(
            instruction.name,
            opcode,
            times,
            times * (read + written),
            times * self._flops(instruction, around),
            op_name[1] if op_name else "",
            frames,
            times * network,
            is_own=bool(
                re.search(r'custom_call_target="(__gpu\$xla\.gpu\.triton|triton_kernel_call)', instruction.attributes)
            ),
            cycles=times * float(cycles[1]) if cycles and int(cycles[1]) < _UNKNOWN else 0.0,
            is_aside=not any(re.search(r"\[\d", part) for part in (instruction.shape, *operands)),
        )

    def _fusion_bytes(self, fusion: Instruction, around: dict[str, Instruction]) -> tuple[float, float]:
        """Returns the bytes that a fused kernel reads and writes. If it only slices an array, only the slices count."""
        inner = self.computations[fusion.called[0]]
        users: dict[str, list[Instruction]] = {}
        for instruction in inner.values():
            for name in instruction.operands:
                users.setdefault(name, []).append(instruction)
        parameters = {
            int(re.search(r"^(\d+)", instruction.attributes or "0")[1]): name  # type: ignore[index]
            for name, instruction in inner.items()
            if instruction.opcode == "parameter"
        }
        read, updated = 0.0, 0.0
        for position, operand in enumerate(fusion.operands):
            whole = bytes_of(around[operand].shape) if operand in around else 0.0
            read += min(whole, self._read_of(parameters.get(position, ""), users, whole))
        written = bytes_of(fusion.shape)
        roots = [instruction for instruction in inner.values() if instruction.root]
        if roots and roots[0].opcode == "tuple":
            roots = [inner[name] for name in roots[0].operands if name in inner]
        for root in roots:
            while root.opcode in ("bitcast", "copy", "convert") and root.operands and root.operands[0] in inner:
                root = inner[root.operands[0]]
            if root.opcode == "dynamic-update-slice":  # written in place
                written -= bytes_of(root.shape)
                updated += bytes_of(inner[root.operands[1]].shape)
        return read, max(written, 0.0) + updated

    def _read_of(self, name: str, users: dict[str, list[Instruction]], whole: float) -> float:
        found = 0.0
        for user in users.get(name, []):
            if user.opcode in ("dynamic-slice", "slice") or (user.opcode == "gather" and user.operands[0] == name):
                found += bytes_of(user.shape)
            elif user.opcode == "bitcast":
                found += self._read_of(user.name, users, whole)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue
            else:
                return whole
        return found

    def _flops(self, instruction: Instruction, around: dict[str, Instruction]) -> float:
        if instruction.opcode == "custom-call" and '"gemm_backend_config"' in instruction.attributes:
            found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)
            axes = [int(axis) for axis in re.findall(r"\d+", found[1])] if found else []
            left = dims_of(around[instruction.operands[0]].shape)
            return 2.0 * math.prod(dims_of(instruction.shape)) * math.prod(left[axis] for axis in axes)
        if instruction.opcode == "custom-call" and (stated := re.search(STATED_FLOPS, instruction.attributes)):
            return float(stated[1])
        if instruction.opcode == "dot":
            left = dims_of(around[instruction.operands[0]].shape)
            found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
            axes = [int(axis) for axis in found[1].split(",") if axis] if found else []
            return 2.0 * math.prod(dims_of(instruction.shape)) * math.prod(left[axis] for axis in axes)
        if instruction.opcode == "convolution":
            return _convolution_flops(instruction, around)
        total = 0.0
        if instruction.opcode == "fusion":
            inner = self.computations[instruction.called[0]]
            total = sum(self._flops(one, inner) for one in inner.values())
        return total


def _convolution_flops(convolution: Instruction, around: dict[str, Instruction]) -> float:
    """Returns the operations of a convolution, the form of matrix products in TPU programs.

    A batch dimension of the product is a spatial dimension of the convolution, with strides and dilations such that the
    window meets the input in one place for each result: only places where it does are counted.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    arrays = *(dims_of(around[name].shape) for name in convolution.operands[:2]), dims_of(convolution.shape)
    if not labels or any(len(dims) != len(names) for dims, names in zip(arrays, labels.groups(), strict=True)):
        return 0.0
    source, kernel, result = (
        dict(zip(names, dims, strict=True)) for names, dims in zip(labels.groups(), arrays, strict=True)
    )
    flops = 2.0 * result["b"] * result["f"] * kernel["i"]
    window = dict(re.findall(r"(\w+)=(-?[\dx_-]+)", convolution.attributes.partition("window={")[2].partition("}")[0]))

    def along(setting: str, axis: int, default: str) -> str:
        return window[setting].split("x")[axis] if setting in window else default

    for axis in range(len(source) - 2):
        size, stride = int(along("size", axis, "1")), int(along("stride", axis, "1"))
        before = int(along("pad", axis, "0_0").split("_")[0])
        gap, step = int(along("lhs_dilate", axis, "1")), int(along("rhs_dilate", axis, "1"))
        places = (at * stride + tap * step - before for at in range(result[str(axis)]) for tap in range(size))
        flops *= sum(place % gap == 0 and 0 <= place <= (source[str(axis)] - 1) * gap for place in places)
    return flops
