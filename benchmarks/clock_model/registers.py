"""The registers of all lanes, and instruction operands as functions that read and write them."""

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.clock_model.ptx import Kernel
from benchmarks.clock_model.values import UNSIGNED, Array, Type, bits_of, constant, numbers_of

Mask = Array | None
"""The lanes that execute an instruction; None for all."""

Reader = Callable[[], Array]
Writer = Callable[[Array, Mask], None]


class Registers:
    """Register bits by name: one array over all lanes each, replaced on a write, never modified."""

    def __init__(self, kernel: Kernel, special: Mapping[str, Array], lanes: int) -> None:
        """Args:
        kernel: the kernel whose registers they are; initially 0.
        special: read-only registers such as ``%tid.x``.
        lanes: the number of lanes.
        """
        self._widths = kernel.widths
        self._lanes = lanes
        self._values = dict(special)
        zeros = {width: np.zeros(lanes, bool if width == 1 else UNSIGNED[width]) for width in kernel.widths.values()}
        for block in kernel.blocks:
            for instruction in block:
                for name in (*instruction.reads, *instruction.writes):
                    self._values[name] = zeros[self._width(name)]

    def reader(self, operand: str, kind: Type) -> Reader:
        """Reads a register, a literal, or the address of shared memory, as numbers of a type."""
        if operand.startswith("!"):
            positive = self.reader(operand[1:], kind)
            return lambda: ~positive()
        values = self._values
        if operand in values:
            return lambda: numbers_of(values[operand], kind)
        if operand[0].isalpha() or operand[0] == "_":
            bits = np.zeros(self._lanes, UNSIGNED[kind.bits])
        else:
            bits = np.repeat(constant(operand, kind), self._lanes)
        numbers = numbers_of(bits, kind)
        return lambda: numbers

    def writer(self, operand: str, kind: Type) -> Writer:
        """Writes to a register, or to ``_``, which discards."""
        if operand == "_":
            return lambda _numbers, _mask: None
        values, width = self._values, self._width(operand)

        def write(numbers: Array, mask: Mask) -> None:
            bits = bits_of(numbers, kind, width)
            values[operand] = bits if mask is None else np.where(mask, bits, values[operand])

        return write

    def _width(self, name: str) -> int:
        return self._widths[name.lstrip("%").rstrip("0123456789")]
