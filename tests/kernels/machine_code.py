"""Counts the instructions of a compiled kernel by kind, in the machine code of NVIDIA (SASS) and AMD."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """The number of instructions of each kind in the code; an instruction in a loop counts once.

    Attributes:
        global_loads, global_stores: counts by the bits that a thread moves, including copies from global to shared memory.
        bulk_copies: copies of whole tiles (TMA), which have no width.
        local_loads, local_stores: of thread-local memory, to which registers are spilled.
        matrix_instructions: matrix multiplications.
        fp64_arithmetic, fp64_conversions: operations on float64, and conversions to and from it.
    """

    global_loads: dict[int, int] = field(default_factory=dict)
    global_stores: dict[int, int] = field(default_factory=dict)
    bulk_copies: int = 0
    local_loads: int = 0
    local_stores: int = 0
    matrix_instructions: int = 0
    fp64_arithmetic: int = 0
    fp64_conversions: int = 0

    @property
    def widest_load(self) -> int:
        """In bits; 0 without loads."""
        return max(self.global_loads, default=0)

    @property
    def widest_store(self) -> int:
        """In bits; 0 without stores."""
        return max(self.global_stores, default=0)


def count_sass(text: str) -> Instructions:
    """Counts in the output of ``nvdisasm -c``."""
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w\s+)?([A-Z][\w.]*)", text)
    return _count(opcodes, _SASS, _sass_bits)


def count_amdgcn(text: str) -> Instructions:
    """Counts in the assembly that Triton keeps as ``asm["amdgcn"]``."""
    return _count(re.findall(r"^\s+([a-z]\w+)(?=\s|$)", text, re.MULTILINE), _AMDGCN, _amdgcn_bits)


_SASS = {
    "load": r"(LDG|LDGSTS)\b",
    "store": r"STG\b",
    "bulk_copies": r"(UBLKCP|UBLKRED|UTMALDG|UTMASTG|UTMAREDG)\b",
    "local_loads": r"LDL\b",
    "local_stores": r"STL\b",
    "matrix_instructions": r"[A-Z]+MMA\b",
    "fp64_arithmetic": r"(DADD|DMUL|DFMA|DMMA|DSETP|DMNMX)\b|MUFU\.\w+64H",
    "fp64_conversions": r"(F2F|F2I|I2F|FRND)\b.*\.F64\b",
}

_AMDGCN = {
    "load": r"(global|buffer|flat)_load_",
    "store": r"(global|buffer|flat)_store_",
    "local_loads": r"scratch_load_",
    "local_stores": r"scratch_store_",
    "matrix_instructions": r"v_(mfma|smfmac|wmma|swmmac)_",
    "fp64_arithmetic": r"v_(?!cvt_)\w*_f64",
    "fp64_conversions": r"v_cvt_\w*f64",
}


def _count(opcodes: Sequence[str], patterns: dict[str, str], bits: Callable[[str], int]) -> Instructions:
    kinds: Counter[str] = Counter()
    widths: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    for opcode, number in Counter(opcodes).items():
        for kind in (kind for kind, pattern in patterns.items() if re.match(pattern, opcode)):
            if kind in widths:
                widths[kind][bits(opcode)] += number
            else:
                kinds[kind] += number
    if not opcodes:
        raise ValueError("there is no instruction in the machine code")
    return Instructions(global_loads=dict(widths["load"]), global_stores=dict(widths["store"]), **kinds)


def _sass_bits(opcode: str) -> int:
    suffixes = opcode.split(".")
    widths = [int(suffix.lstrip("US")) for suffix in suffixes if re.fullmatch(r"[US]?(8|16)|64|128|256", suffix)]
    return widths[0] if widths else 32


_AMDGCN_BITS = {"byte": 8, "ubyte": 8, "sbyte": 8, "short": 16, "ushort": 16, "sshort": 16, "dword": 32}


def _amdgcn_bits(opcode: str) -> int:
    width = re.search(r"_(?:load|store)_(?:lds_)?(?:([us]?(?:byte|short)|dword)(?:x([234]))?)(?:_|$)", opcode)
    if width is None:
        raise ValueError(f"how wide is {opcode}?")
    return _AMDGCN_BITS[width[1]] * int(width[2] or 1)
