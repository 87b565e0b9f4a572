"""Conversion between register bits and numbers of a PTX type."""

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
    """A PTX type."""

    bits: int
    """Width of a register that holds it."""
    dtype: np.dtype[Any]
    """NumPy dtype of the numbers; float32 for bfloat16, which it contains."""
    brain: bool = False
    """Whether the bits are bfloat16."""


TYPES = {
    **{f"{kind}{bits}": Type(bits, UNSIGNED[bits]) for kind in "ub" for bits in UNSIGNED},
    **{f"s{bits}": Type(bits, np.dtype(f"int{bits}")) for bits in UNSIGNED},
    "f16": Type(16, np.dtype(np.float16)),
    "f32": Type(32, np.dtype(np.float32)),
    "f64": Type(64, np.dtype(np.float64)),
    "tf32": Type(32, np.dtype(np.float32)),
    "bf16": Type(16, np.dtype(np.float32), brain=True),
    # Two numbers in a 32-bit register become an array of twice the length.
    "f16x2": Type(32, np.dtype(np.float16)),
    "bf16x2": Type(32, np.dtype(np.float32), brain=True),
    "pred": Type(1, np.dtype(bool)),
}


def type_of(name: str) -> Type:
    """The type with this name.

    Raises:
        NotImplementedError: for an unsupported type.
    """
    if name not in TYPES:
        raise NotImplementedError(f"PTX type {name}")
    return TYPES[name]


def numbers_of(bits: Array, kind: Type) -> Array:
    """The numbers that registers hold; for a register wider than the type, those of its low bits."""
    if kind.bits == 1:
        return bits
    if bits.dtype.itemsize * 8 > kind.bits:
        bits = bits.astype(UNSIGNED[kind.bits])
    if kind.brain:
        return (bits.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(kind.dtype)


def bits_of(numbers: Array, kind: Type, width: int) -> Array:
    """The bits of numbers in registers of ``width`` bits; signed integers are sign-extended."""
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
    """The bits of the nearest bfloat16; ties to even."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(numbers), np.uint32(0x7FFF), rounded).astype(np.uint16)


def constant(text: str, kind: Type) -> Array:
    """The bits of a literal in a kernel's text."""
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
