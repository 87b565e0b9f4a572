"""Arithmetic instructions: each thread computes a number from its own numbers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.clock_model.ptx import Instruction
from benchmarks.clock_model.values import Array, type_of

Function = Callable[..., Array]


class Operation(NamedTuple):
    """A function on numbers, with the types of its arguments and of its result."""

    function: Function
    sources: tuple[str, ...]
    result: str


def operation(instruction: Instruction) -> Operation:
    """The operation of an instruction.

    Raises:
        NotImplementedError: for any other instruction, or for an unsupported form.
    """
    if _NOT_KNOWN & set(instruction.modifiers):
        raise NotImplementedError(instruction.full_name)
    if instruction.name in _SPECIAL:
        return _SPECIAL[instruction.name](instruction)
    if instruction.name in _FLOAT and type_of(instruction.type).dtype.kind == "f":
        count, function = _FLOAT[instruction.name]
        function = _with_nan(instruction, function)
        return Operation(_flushed(instruction, function), (instruction.type,) * count, instruction.type)
    if instruction.name in _WHOLE:
        count, function = _WHOLE[instruction.name]
        return Operation(function, (instruction.type,) * count, instruction.type)
    raise NotImplementedError(instruction.full_name)


_NOT_KNOWN = {"sat", "satfinite", "relu", "cc", "rz", "rm", "rp", "xorsign", "abs", "oob"}
"""Modifiers with unsupported effects on the result."""


def _fused(a: Array, b: Array, c: Array) -> Array:
    """Rounds once, because float64 holds the exact product of two float32 numbers."""
    return a.astype(np.float64) * b + c


_FLOAT: dict[str, tuple[int, Function]] = {
    "add": (2, np.add),
    "sub": (2, np.subtract),
    "mul": (2, np.multiply),
    "div": (2, np.divide),
    "fma": (3, _fused),
    "mad": (3, _fused),
    "min": (2, np.fmin),
    "max": (2, np.fmax),
    "neg": (1, np.negative),
    "abs": (1, np.abs),
    "ex2": (1, np.exp2),
    "lg2": (1, np.log2),
    "rcp": (1, np.reciprocal),
    "sqrt": (1, np.sqrt),
    "rsqrt": (1, lambda a: 1 / np.sqrt(a)),
    "sin": (1, np.sin),
    "cos": (1, np.cos),
    "tanh": (1, np.tanh),
    "copysign": (2, lambda sign, a: np.copysign(a, sign)),
}


def _with_nan(instruction: Instruction, function: Function) -> Function:
    """Maximum and minimum that propagate NaN, if the instruction says so."""
    if "NaN" not in instruction.modifiers:
        return function
    return np.minimum if instruction.name == "min" else np.maximum


def _flushed(instruction: Instruction, function: Function) -> Function:
    """With ``ftz``, a subnormal float32 result becomes 0."""
    if "ftz" not in instruction.modifiers:
        return function
    smallest = np.finfo(np.float32).smallest_normal

    def flushing(*arguments: Array) -> Array:
        result = function(*arguments)
        return np.where(np.abs(result) < smallest, np.copysign(0.0, result), result)

    return flushing


def _quotient(a: Array, b: Array) -> Array:
    """Rounded towards 0, as in C; division by 0 is undefined in PTX."""
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    down = a // safe
    return (down + ((a % safe != 0) & ((a < 0) != (safe < 0)))).astype(a.dtype)


def _remainder(a: Array, b: Array) -> Array:
    return (a - _quotient(a, b) * b).astype(a.dtype)


def _bits_set(a: Array) -> Array:
    return np.bitwise_count(a)


def _leading_zeros(a: Array) -> Array:
    return np.uint32(a.dtype.itemsize * 8) - np.frexp(a.astype(np.float64))[1].astype(np.uint32)


_WHOLE: dict[str, tuple[int, Function]] = {
    "add": (2, np.add),
    "sub": (2, np.subtract),
    "div": (2, _quotient),
    "rem": (2, _remainder),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "neg": (1, np.negative),
    "abs": (1, np.abs),
    "and": (2, np.bitwise_and),
    "or": (2, np.bitwise_or),
    "xor": (2, np.bitwise_xor),
    "not": (1, np.invert),
}

_COMPARISONS: dict[str, Function] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
    "equ": lambda a, b: (a == b) | np.isnan(a) | np.isnan(b),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
}


def _ordered_not_equal(a: Array, b: Array) -> Array:
    return (a < b) | (a > b)


def _comparison(instruction: Instruction) -> Operation:
    name, *combined, kind = (one for one in instruction.modifiers if one != "ftz")
    if name not in _COMPARISONS:
        raise NotImplementedError(instruction.full_name)
    compare = _ordered_not_equal if name == "ne" and type_of(kind).dtype.kind == "f" else _COMPARISONS[name]
    if not combined:
        return Operation(compare, (kind, kind), "pred")
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[combined[0]]
    return Operation(lambda a, b, also: combine(compare(a, b), also), (kind, kind, "pred"), "pred")


def _selection(instruction: Instruction) -> Operation:
    kind = instruction.type
    return Operation(_chosen, (kind, kind, "pred"), kind)


def _chosen(a: Array, b: Array, first: Array) -> Array:
    return np.where(first, a, b)


_DOUBLED = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64", "b32": "u64"}


def _product(instruction: Instruction) -> Operation:
    """``mul`` and ``mad``, for floating-point numbers or for the low, high or all bits of an integer product."""
    kind, modifiers = instruction.type, instruction.modifiers
    if type_of(kind).dtype.kind == "f":
        count, function = _FLOAT[instruction.name]
        return Operation(_flushed(instruction, function), (kind,) * count, kind)
    multiply, result = _half_of_product(instruction) if {"wide", "hi"} & set(modifiers) else (_low_product, kind)
    if instruction.name == "mul":
        return Operation(multiply, (kind, kind), result)
    return Operation(lambda a, b, c: multiply(a, b) + c, (kind, kind, result), result)


def _low_product(a: Array, b: Array) -> Array:
    return a * b


def _half_of_product(instruction: Instruction) -> tuple[Function, str]:
    """Computes the integer product in twice the width, or its high half; also returns the result type."""
    kind = instruction.type
    if kind not in _DOUBLED:
        raise NotImplementedError(instruction.full_name)
    high, double = "hi" in instruction.modifiers, type_of(_DOUBLED[kind]).dtype
    result, shift = (kind, type_of(kind).bits) if high else (_DOUBLED[kind], 0)

    def multiply(a: Array, b: Array) -> Array:
        return (a.astype(double) * b.astype(double) >> shift).astype(type_of(result).dtype)

    return multiply, result


def _shift(instruction: Instruction) -> Operation:
    """Shifts by the width or more leave 0, or copies of the sign."""
    kind = type_of(instruction.type)
    shift = np.left_shift if instruction.name == "shl" else np.right_shift
    keeps_sign = instruction.name == "shr" and kind.dtype.kind == "i"

    def function(a: Array, by: Array) -> Array:
        shifted = shift(a, np.minimum(by, kind.bits - 1).astype(a.dtype))
        return shifted if keeps_sign else np.where(by < kind.bits, shifted, 0).astype(a.dtype)

    return Operation(function, (instruction.type, "u32"), instruction.type)


def _funnel(instruction: Instruction) -> Operation:
    """``shf``: 32 of 64 shifted bits."""
    direction, mode, kind = instruction.modifiers

    def function(low: Array, high: Array, by: Array) -> Array:
        count = (by & np.uint32(31) if mode == "wrap" else np.minimum(by, np.uint32(32))).astype(np.uint64)
        both = high.astype(np.uint64) << np.uint64(32) | low
        return (both << count >> np.uint64(32) if direction == "l" else both >> count).astype(np.uint32)

    return Operation(function, (kind, kind, "u32"), kind)


def _field(instruction: Instruction) -> Operation:
    """``bfe``: extracts a bit field, sign-extended for signed types."""
    kind = type_of(instruction.type)

    def function(a: Array, first: Array, count: Array) -> Array:
        ones = np.int64(1) << (count & 255).astype(np.int64)
        field = (a.astype(np.int64) >> (first & 255).astype(np.int64)) & (ones - 1)
        negative = (kind.dtype.kind == "i") & (field & (ones >> 1) != 0)
        return np.where(negative, field - ones, field).astype(kind.dtype)

    if kind.bits != 32:
        raise NotImplementedError(instruction.full_name)
    return Operation(function, (instruction.type, "u32", "u32"), instruction.type)


def _inserted(instruction: Instruction) -> Operation:
    """``bfi``."""

    def function(a: Array, into: Array, first: Array, count: Array) -> Array:
        mask = ((np.uint64(1) << (count & 255).astype(np.uint64)) - np.uint64(1)) << (first & 255).astype(np.uint64)
        moved = a.astype(np.uint64) << (first & 255).astype(np.uint64)
        return (into & ~mask | moved & mask).astype(into.dtype)

    return Operation(function, (instruction.type, instruction.type, "u32", "u32"), instruction.type)


def _permutation(instruction: Instruction) -> Operation:
    """``prmt``: four of eight bytes, or their signs."""
    if instruction.modifiers != ("b32",):
        raise NotImplementedError(instruction.full_name)

    def function(a: Array, b: Array, selector: Array) -> Array:
        both = b.astype(np.uint64) << np.uint64(32) | a
        result = np.zeros(np.broadcast(a, b, selector).shape, np.uint64)
        for place in range(4):
            choice = (selector >> np.uint32(4 * place)).astype(np.uint64)
            byte = both >> ((choice & np.uint64(7)) * np.uint64(8)) & np.uint64(255)
            sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
            result |= np.where(choice & np.uint64(8), sign, byte) << np.uint64(8 * place)
        return result.astype(np.uint32)

    return Operation(function, ("b32", "b32", "b32"), "b32")


def _any_logic(instruction: Instruction) -> Operation:
    """``lop3``: looks up each three bits in a table."""

    def function(a: Array, b: Array, c: Array, table: Array) -> Array:
        result = np.zeros(np.broadcast(a, b, c).shape, np.uint32)
        for case in range(8):
            if int(table[0]) >> case & 1:
                result |= (a if case & 4 else ~a) & (b if case & 2 else ~b) & (c if case & 1 else ~c)
        return result

    return Operation(function, ("b32",) * 4, "b32")


_ROUNDINGS: dict[str, Function] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _conversion(instruction: Instruction) -> Operation:
    *how, result, source = instruction.modifiers
    into, of = type_of(result), type_of(source)
    if not set(how) <= {"rn", "rna", "rni", "rzi", "rmi", "rpi", "ftz"}:
        raise NotImplementedError(instruction.full_name)
    if result in ("f16x2", "bf16x2"):
        # The second operand becomes the low half.
        return Operation(lambda high, low: np.stack(np.broadcast_arrays(low, high), -1).ravel(), (source,) * 2, result)
    if result == "tf32":
        return Operation(_to_tf32, ("f32",), result)
    rounding = next((_ROUNDINGS[one] for one in how if one in _ROUNDINGS), None)
    if into.dtype.kind == "f":
        return Operation(rounding or (lambda a: a.astype(np.float64 if into.bits == 64 else into.dtype)), (source,), result)
    if of.dtype.kind == "f":
        if rounding is None:
            raise NotImplementedError(instruction.full_name)
        return Operation(_saturated(rounding, into.dtype), (source,), result)
    return Operation(lambda a: a.astype(into.dtype), (source,), result)


def _to_tf32(a: Array) -> Array:
    """The nearest number with 10 fraction bits; ties round away from 0."""
    bits = np.ascontiguousarray(a).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _saturated(rounding: Function, dtype: np.dtype[np.integer[np.typing.NBitBase]]) -> Function:
    """Converts to integers: saturates at the range, maps NaN to 0."""
    limits = np.iinfo(dtype)

    def function(a: Array) -> Array:
        whole = np.nan_to_num(rounding(a.astype(np.float64)), nan=0.0)
        beyond = np.where(whole < limits.min, limits.min, limits.max).astype(dtype)
        inside = (whole >= limits.min) & (whole < float(limits.max) + 1)
        return np.where(inside, np.where(inside, whole, 0).astype(dtype), beyond)

    return function


_SPECIAL: dict[str, Callable[[Instruction], Operation]] = {
    "setp": _comparison,
    "selp": _selection,
    "mul": _product,
    "mad": _product,
    "shl": _shift,
    "shr": _shift,
    "shf": _funnel,
    "bfe": _field,
    "bfi": _inserted,
    "prmt": _permutation,
    "lop3": _any_logic,
    "cvt": _conversion,
    "popc": lambda one: Operation(_bits_set, (one.type,), "u32"),
    "clz": lambda one: Operation(_leading_zeros, (one.type,), "u32"),
}
