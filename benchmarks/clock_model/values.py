"""Registers hold bits: what they mean as numbers of a PTX type, and the bits of a number."""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

UNSIGNED: dict[int, np.dtype[Any]] = {
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.uint32),
    64: np.dtype(np.uint64),
}


class Type(NamedTuple):
    """A type of PTX."""

    bits: int
    """Of a register that holds it."""
    dtype: np.dtype[Any]
    """Of the numbers; that of bfloat16 is float32, which has all its numbers."""
    brain: bool = False
    """Whether the bits are those of bfloat16."""


TYPES = {
    **{f"{kind}{bits}": Type(bits, UNSIGNED[bits]) for kind in "ub" for bits in UNSIGNED},
    **{f"s{bits}": Type(bits, np.dtype(f"int{bits}")) for bits in UNSIGNED},
    "f16": Type(16, np.dtype(np.float16)),
    "f32": Type(32, np.dtype(np.float32)),
    "f64": Type(64, np.dtype(np.float64)),
    "tf32": Type(32, np.dtype(np.float32)),
    "bf16": Type(16, np.dtype(np.float32), brain=True),
    # Two numbers in a register of 32 bits are an array of twice the length.
    "f16x2": Type(32, np.dtype(np.float16)),
    "bf16x2": Type(32, np.dtype(np.float32), brain=True),
    "pred": Type(1, np.dtype(bool)),
}


def type_of(name: str) -> Type:
    """The type of this name.

    Raises:
        NotImplementedError: if it is none that is known here.
    """
    if name not in TYPES:
        raise NotImplementedError(f"the type {name} of PTX")
    return TYPES[name]


def numbers_of(bits: Array, kind: Type) -> Array:
    """The numbers that registers hold; of a register wider than the type its low bits."""
    if kind.bits == 1:
        return bits
    if bits.dtype.itemsize * 8 > kind.bits:
        bits = bits.astype(UNSIGNED[kind.bits])
    if kind.brain:
        return (bits.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(kind.dtype)


def bits_of(numbers: Array, kind: Type, width: int) -> Array:
    """The bits of numbers in registers of ``width`` bits; integers are extended by their sign if they have one."""
    if width == 1:
        return numbers.astype(bool)
    bits = rounded_to_bfloat16(numbers) if kind.brain else numbers.astype(kind.dtype, copy=False)
    if kind.brain:
        bits = bits.view(UNSIGNED[kind.bits])
    if bits.dtype.kind == "f":
        bits = bits.view(UNSIGNED[kind.bits])
    if bits.dtype.itemsize * 8 != width:
        return bits.astype(UNSIGNED[width])
    return bits.view(UNSIGNED[width])


def rounded_to_bfloat16(numbers: Array) -> Array:
    """The bits of the nearest bfloat16, of the even one of two."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(numbers), np.uint32(0x7FFF), rounded).astype(np.uint16)


def constant(text: str, kind: Type) -> Array:
    """The bits of a number in the text of a kernel."""
    if text.startswith(("0f", "0F")):
        return np.array([int(text[2:], 16)], np.uint32)
    if text.startswith(("0d", "0D")):
        return np.array([int(text[2:], 16)], np.uint64)
    value = int(text.rstrip("U"), 0)
    return np.array([bool(value)]) if kind.bits == 1 else np.array([value % (1 << kind.bits)], UNSIGNED[kind.bits])


def bits_of_argument(value: int | float, kind: Type) -> int:
    """The bits of a scalar argument."""
    if kind.dtype.kind == "f":
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(value) % (1 << kind.bits)
