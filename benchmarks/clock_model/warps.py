"""Warp-level instructions: shuffles, votes, reductions, and products on tensor cores."""

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.clock_model.memory import WARP
from benchmarks.clock_model.ptx import Instruction
from benchmarks.clock_model.values import Array, numbers_of, type_of

MultiplyAdd = Callable[[Array, Array, Array], Array]
"""Computes ``accumulator + left @ right`` from ``left, right, accumulator``, over the last two axes."""

LANE = np.arange(WARP)


def rounded_multiply_add(left: Array, right: Array, accumulator: Array) -> Array:
    """A product in float32 arithmetic, with every operation rounded to nearest."""
    return accumulator + left @ right


def shuffle(mode: str, values: Array, by: Array, limits: Array) -> tuple[Array, Array]:
    """What each lane gets from another lane of its warp, and whether that lane is in its segment."""
    lanes = np.broadcast_to(LANE, (len(values) // WARP, WARP)).ravel()
    by, limits = by.astype(np.int64) & 31, limits.astype(np.int64)
    last, segment = limits & 31, limits >> 8 & 31
    limit = lanes & segment | last & ~segment
    source = {"up": lanes - by, "down": lanes + by, "bfly": lanes ^ by, "idx": lanes & segment | by & ~segment}[mode]
    inside = source >= limit if mode == "up" else source <= limit
    first_of_warp = np.arange(len(values)) - lanes
    return values[first_of_warp + np.where(inside, source, lanes)], inside


def vote(mode: str, votes: Array, active: Array) -> Array:
    """``all``, ``any``, ``uni`` or ``ballot`` over the active lanes of a warp."""
    votes, active = votes.reshape(-1, WARP), active.reshape(-1, WARP)
    if mode == "ballot":
        result = ((votes & active) << LANE.astype(np.uint64)).sum(1).astype(np.uint32)
    else:
        every, some = (votes | ~active).all(1), (votes & active).any(1)
        result = {"all": every, "any": some, "uni": every | ~some}[mode]
    return np.repeat(result, WARP)


_REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def reduction(instruction: Instruction) -> Callable[[Array], Array]:
    """``redux``: a sum, maximum or similar over a whole warp."""
    name = instruction.modifiers[1]
    if name not in _REDUCTIONS or type_of(instruction.type).dtype.kind == "f":
        raise NotImplementedError(instruction.full_name)
    reduce = _REDUCTIONS[name].reduce
    return lambda values: np.repeat(reduce(values.reshape(-1, WARP), 1).astype(values.dtype), WARP)


def matrices(rows: Array, count: int, *, transposed: bool) -> list[Array]:
    """``ldmatrix``: the registers of every lane, from rows of eight 16-bit numbers, given as 4 words per lane."""
    numbers = np.ascontiguousarray(rows).view(np.uint16).reshape(-1, 4, 8, 8)[:, :count]
    if transposed:
        numbers = numbers.swapaxes(2, 3)
    words = np.ascontiguousarray(numbers).view(np.uint32).reshape(-1, count, WARP)
    return [np.ascontiguousarray(words[:, matrix]).ravel() for matrix in range(count)]


class Fragments:
    """Which entries of an ``mma`` instruction's matrices the registers of a warp's lanes hold."""

    def __init__(self, instruction: Instruction) -> None:
        """Raises:
        NotImplementedError: for shapes and types other than 16-bit and TF32 products accumulated in float32.
        """
        _, _, shape, *layouts, result, left, right, accumulator = instruction.modifiers
        known = {"f16": ("m16n8k16", "m16n8k8"), "bf16": ("m16n8k16", "m16n8k8"), "tf32": ("m16n8k8", "m16n8k4")}
        if (
            (layouts, result, accumulator) != (["row", "col"], "f32", "f32")
            or left != right
            or shape not in known.get(left, ())
        ):
            raise NotImplementedError(instruction.full_name)
        self._depth = int(shape.rpartition("k")[2])
        self._type = type_of(left)
        self._in_register = 1 if left == "tf32" else 2
        self._group, self._place = LANE // 4, LANE % 4

    def left(self, registers: Sequence[Array]) -> Array:
        """The matrices ``(warps, 16, depth)``."""
        matrix = np.zeros((len(registers[0]) // WARP, 16, self._depth), np.float32)
        for index, register in enumerate(registers):
            for part, numbers in enumerate(self._numbers(register)):
                matrix[:, self._group + 8 * (index % 2), self._entry(index // 2, part)] = numbers
        return matrix

    def right(self, registers: Sequence[Array]) -> Array:
        """The matrices ``(warps, depth, 8)``."""
        matrix = np.zeros((len(registers[0]) // WARP, self._depth, 8), np.float32)
        for index, register in enumerate(registers):
            for part, numbers in enumerate(self._numbers(register)):
                matrix[:, self._entry(index, part), self._group] = numbers
        return matrix

    def accumulator(self, registers: Sequence[Array]) -> Array:
        """The matrices ``(warps, 16, 8)``."""
        matrix = np.zeros((len(registers[0]) // WARP, 16, 8), np.float32)
        for index, register in enumerate(registers):
            matrix[:, self._group + 8 * (index // 2), 2 * self._place + index % 2] = register.reshape(-1, WARP)
        return matrix

    def result(self, matrix: Array) -> list[Array]:
        """The registers that hold matrices ``(warps, 16, 8)``."""
        return [matrix[:, self._group + 8 * (i // 2), 2 * self._place + i % 2].ravel() for i in range(4)]

    def _entry(self, quarter: int, part: int) -> Array:
        """The index along the depth of a part of a register."""
        return self._in_register * (self._place + 4 * quarter) + part

    def _numbers(self, register: Array) -> list[Array]:
        """The numbers in a 32-bit register, ``(warps, 32)`` each, lower half first."""
        if self._in_register == 1:
            # A tensor core reads only the upper 19 bits.
            return [(register & np.uint32(0xFFFFE000)).view(np.float32).reshape(-1, WARP)]
        halves = (register & np.uint32(0xFFFF), register >> np.uint32(16))
        return [numbers_of(half.astype(np.uint16), self._type).reshape(-1, WARP) for half in halves]
