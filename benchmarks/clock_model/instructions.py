"""The cost of an instruction on a multiprocessor: issue slots of its scheduler, clocks of a unit, and result latency.

Throughputs are from the table "Throughput of Native Arithmetic Instructions" in the CUDA C++ Programming Guide for compute
capabilities 8.0 and 9.0: with 4 schedulers, ``r`` results per clock and multiprocessor mean that each scheduler completes a
warp's 32 results every ``128 / r`` clocks. Latencies are approximately those of microbenchmarks, such as arXiv 2402.13499.
The number of machine instructions per PTX instruction is an assumption, based on the output of ptxas.
"""

from typing import NamedTuple

from benchmarks.clock_model.ptx import Instruction, elements
from benchmarks.clock_model.values import type_of


class Rates(NamedTuple):
    """Clocks for which a warp's instruction occupies a scheduler's unit, where they differ between GPUs."""

    float32: int
    """A float32 operation: 128 / 64 or 128 / 128."""
    product: int
    """A 16 x 8 x 16 product of 16-bit numbers on a tensor core, at the datasheet rate. On an H100 this is the rate of
    ``wgmma``, which Triton uses there."""


AMPERE, HOPPER = Rates(float32=2, product=8), Rates(float32=1, product=4)

WHOLE, SPECIAL = 2, 8
"""Clocks for an integer operation, a comparison or a selection: 128 / 64; for a special function: 128 / 16."""

ARITHMETIC_LATENCY, SPECIAL_LATENCY, PRODUCT_LATENCY = 4, 22, 33
SHUFFLE_LATENCY, SHARED_LATENCY, MATRIX_LATENCY = 23, 29, 33
FIRST_CACHE_LATENCY, SECOND_CACHE_LATENCY = 38, 265
BARRIER_LATENCY, BRANCH_LATENCY = 20, 10


class Timing(NamedTuple):
    """The cost of one instruction of a warp."""

    kind: str
    """``"free"``: the compiler removes it; ``"unit"``: fully described by the other fields; others are special cases."""
    slots: int = 1
    """Issue slots of the scheduler: machine instructions."""
    unit: str = "whole"
    busy: int = WHOLE
    """Clocks for which the unit is occupied."""
    latency: int = ARITHMETIC_LATENCY
    """Clocks from the start on the unit until the result can be used; for loads, the latency that the compiler assumes."""


FREE = Timing("free", 0, "", 0, 0)

_MEMORY = {
    ("ld", "global"): Timing("load", 1, "memory", 1, SECOND_CACHE_LATENCY),
    ("st", "global"): Timing("store", 1, "memory", 1, 0),
    ("ld", "shared"): Timing("shared", 1, "memory", 1, SHARED_LATENCY),
    ("st", "shared"): Timing("shared", 1, "memory", 1, 0),
    ("atom", "global"): Timing("load", 1, "memory", 1, SECOND_CACHE_LATENCY),
    ("red", "global"): Timing("store", 1, "memory", 1, 0),
    ("atom", "shared"): Timing("shared", 2, "memory", 2, 2 * SHARED_LATENCY),
    ("red", "shared"): Timing("shared", 2, "memory", 2, 0),
    ("ld", "param"): FREE,
}

_OTHERS = {
    "ldmatrix": Timing("shared", 1, "memory", 1, MATRIX_LATENCY),
    # 32 and 16 results per clock for the whole multiprocessor, whose schedulers share the unit.
    "shfl": Timing("unit", 1, "memory", 1, SHUFFLE_LATENCY),
    "redux": Timing("unit", 1, "memory", 2, SHUFFLE_LATENCY),
    "vote": Timing("unit"),
    "createpolicy": FREE,
    "bar": Timing("barrier", 1, "", 0, BARRIER_LATENCY),
    "barrier": Timing("barrier", 1, "", 0, BARRIER_LATENCY),
    "bra": Timing("branch", 1, "", 0, BRANCH_LATENCY),
    "ret": Timing("branch", 1, "", 0, 0),
    "exit": Timing("branch", 1, "", 0, 0),
    "membar": Timing("unit", 1, "memory", 1, SECOND_CACHE_LATENCY),
    "fence": Timing("unit", 1, "memory", 1, SECOND_CACHE_LATENCY),
    # Extra machine instructions scale arguments outside a special function's range, unless it flushes, and refine divisions.
    "ex2": Timing("unit", 1, "special", SPECIAL, SPECIAL_LATENCY),
    "lg2": Timing("unit", 1, "special", SPECIAL, SPECIAL_LATENCY),
    "rcp": Timing("unit", 1, "special", SPECIAL, SPECIAL_LATENCY),
    "rsqrt": Timing("unit", 1, "special", SPECIAL, SPECIAL_LATENCY),
    "sin": Timing("unit", 2, "special", SPECIAL, SPECIAL_LATENCY + ARITHMETIC_LATENCY),
    "cos": Timing("unit", 2, "special", SPECIAL, SPECIAL_LATENCY + ARITHMETIC_LATENCY),
    "tanh": Timing("unit", 1, "special", SPECIAL, SPECIAL_LATENCY),
    "sqrt": Timing("unit", 5, "special", SPECIAL, SPECIAL_LATENCY + 4 * ARITHMETIC_LATENCY),
    "div": Timing("unit", 8, "special", SPECIAL, SPECIAL_LATENCY + 6 * ARITHMETIC_LATENCY),
    "rem": Timing("unit", 20, "special", SPECIAL, SPECIAL_LATENCY + 16 * ARITHMETIC_LATENCY),
}

_ON_FLOAT32 = ("add", "sub", "mul", "fma", "mad")

# fmt: off
_ON_WHOLE = (
    "add", "sub", "min", "max", "abs", "neg", "and", "or", "xor", "not", "shl", "shr", "shf", "bfe", "bfi", "prmt", "lop3",
    "popc", "clz", "setp", "selp", "cvt", "copysign",
)
# fmt: on


def timing(instruction: Instruction, rates: Rates) -> Timing:
    """The cost of an instruction.

    Raises:
        NotImplementedError: with the name of an unsupported instruction.
    """
    name = instruction.name
    if (name, instruction.space) in _MEMORY:
        return _MEMORY[name, instruction.space]
    if name == "mma":
        return _product(instruction, rates)
    if name == "cp":
        return _copy(instruction)
    if name == "mov":
        return _move(instruction)
    if name in _OTHERS:
        return _scaled(instruction, rates)
    kind = type_of(instruction.type)
    if name in _ON_FLOAT32 and kind.dtype.kind == "f":
        return Timing("unit", 1, "float32", rates.float32)
    if name in ("mul", "mad"):
        # A 64-bit product takes three 32-bit products.
        count = 3 if kind.bits == 64 else 1
        return Timing("unit", count, "float32", 2 * count, ARITHMETIC_LATENCY + count)
    if name not in _ON_WHOLE:
        raise NotImplementedError(instruction.full_name)
    return _whole(instruction)


def _scaled(instruction: Instruction, rates: Rates) -> Timing:
    """The cost of a special function including its extra instructions."""
    found = _OTHERS[instruction.name]
    if instruction.name == "div" and type_of(instruction.type).dtype.kind != "f":
        return _OTHERS["rem"]
    if instruction.name in ("ex2", "lg2") and "ftz" not in instruction.modifiers:
        return found._replace(slots=3, latency=found.latency + 2 * ARITHMETIC_LATENCY)
    return found


def _whole(instruction: Instruction) -> Timing:
    """The cost of an instruction on the integer unit."""
    name, kind = instruction.name, type_of(instruction.type)
    if name in ("neg", "abs") and kind.dtype.kind == "f":
        # It becomes a sign on another instruction's operand.
        return FREE
    if name == "cvt":
        return _conversion(instruction)
    count = 2 if kind.bits == 64 else 1
    return Timing("unit", count, "whole", WHOLE * count, ARITHMETIC_LATENCY * count)


def _conversion(instruction: Instruction) -> Timing:
    into, of = (type_of(name) for name in instruction.modifiers[-2:])
    if into.dtype.kind != "f" and of.dtype.kind != "f":
        # A 64-bit register is two 32-bit registers: only the sign has to be computed.
        return Timing("unit") if into.bits > of.bits and of.dtype.kind == "i" else FREE
    if 64 in (into.bits, of.bits):
        return Timing("unit", 1, "special", SPECIAL, SPECIAL_LATENCY)
    return Timing("unit")


def _move(instruction: Instruction) -> Timing:
    """Copies and constants are removed; packing and unpacking takes one instruction per destination register."""
    destination, source = instruction.operands
    parts = max(len(elements(destination)), len(elements(source)))
    if parts == 1 or type_of(instruction.type).bits // parts == 32:
        return FREE
    count = len(elements(destination))
    return Timing("unit", count, "whole", WHOLE * count)


def _product(instruction: Instruction, rates: Rates) -> Timing:
    """Half the depth takes half the time; TF32 takes twice as long as 16 bits."""
    depth = int(instruction.modifiers[2].rpartition("k")[2])
    entries = depth * (2 if "tf32" in instruction.modifiers else 1)
    return Timing("unit", 1, "product", max(1, rates.product * entries // 16), PRODUCT_LATENCY)


def _copy(instruction: Instruction) -> Timing:
    kind = instruction.modifiers[1] if instruction.modifiers[:1] == ("async",) else ""
    if kind in ("ca", "cg"):
        return Timing("copy", 1, "memory", 1, SECOND_CACHE_LATENCY)
    if kind in ("commit_group", "wait_group", "wait_all"):
        return Timing(kind, 1, "", 0, 0)
    raise NotImplementedError(instruction.full_name)
