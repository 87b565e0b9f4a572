"""Reads the PTX of a kernel: its parameters, its registers, its instructions and their basic blocks."""

import re
from dataclasses import dataclass
from typing import NamedTuple

_REGISTER = re.compile(r"%[a-z]+\d+")
_DECLARATION = re.compile(r"\.reg\s+\.(\w+)\s+%([a-z]+)<")
_PARAMETER = re.compile(r"\.param\s+\.(\w+)[^,\n]*?(\w+_param_\d+)")
_STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)", re.DOTALL)
_LABEL = re.compile(r"(\$[\w$]+):")
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]")

_WITHOUT_RESULT = ("st", "red", "cp", "bra", "bar", "barrier", "ret", "exit", "membar", "fence")
"""Instructions whose first operand is not what they write."""

_ENDS_BLOCK = ("bra", "bar", "barrier", "ret", "exit")


class Instruction(NamedTuple):
    """One instruction: ``@predicate name.modifiers operands``."""

    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    predicate: str = ""
    """The register that decides whether a thread executes it; empty: all do."""
    negated: bool = False
    """Whether it is executed where the predicate is false."""

    @property
    def full_name(self) -> str:
        """With its modifiers, as PTX has it."""
        return ".".join((self.name, *self.modifiers))

    @property
    def type(self) -> str:
        """The last modifier, which is the type of most instructions."""
        return self.modifiers[-1] if self.modifiers else ""

    @property
    def space(self) -> str:
        """The memory that a load or a store accesses: ``"global"``, ``"shared"``, ``"param"`` or ``""``."""
        return next((modifier for modifier in self.modifiers if modifier in ("global", "shared", "param")), "")

    @property
    def writes(self) -> tuple[str, ...]:
        """The registers that it writes."""
        return () if self.name in _WITHOUT_RESULT or not self.operands else _registers(self.operands[:1])

    @property
    def reads(self) -> tuple[str, ...]:
        """The registers that it reads; one that is written under a predicate keeps its value where that is false."""
        if self.name in _WITHOUT_RESULT:
            return _registers((*self.operands, self.predicate))
        kept = self.writes if self.predicate else ()
        return (*_registers((*self.operands[1:], self.predicate)), *kept)


class Parameter(NamedTuple):
    """An argument of the kernel; ``type`` is one of PTX."""

    name: str
    type: str


@dataclass(frozen=True)
class Kernel:
    """What a kernel consists of.

    Attributes:
        name: of the function.
        threads: of a program.
        parameters: in their order.
        widths: bits of the registers by the letters of their names; 1 for predicates.
        blocks: instructions that are executed one after the other; only the last one of a block may branch or wait.
        targets: the block that follows each label.
    """

    name: str
    threads: int
    parameters: tuple[Parameter, ...]
    widths: dict[str, int]
    blocks: tuple[tuple[Instruction, ...], ...]
    targets: dict[str, int]


class Address(NamedTuple):
    """``[base + offset]``."""

    base: str
    offset: int


def parse(ptx: str) -> Kernel:
    """The only kernel of a module.

    Raises:
        ValueError: if the text is not that of a kernel as Triton writes them.
    """
    _, found, rest = ptx.partition(".entry")
    threads = re.search(r"\.reqntid (\d+)", rest)
    if not found or threads is None:
        raise ValueError("there is no kernel with a number of threads in this PTX")
    signature, _, body = rest.partition("{")
    widths = {letters: 1 if bits == "pred" else int(bits[1:]) for bits, letters in _DECLARATION.findall(body)}
    blocks, targets = _blocks(_statements(body))
    parameters = tuple(Parameter(name, kind) for kind, name in _PARAMETER.findall(signature))
    return Kernel(signature.split("(")[0].strip(), int(threads[1]), parameters, widths, blocks, targets)


def address(operand: str) -> Address:
    """What an operand in brackets consists of."""
    match = _ADDRESS.fullmatch(operand)
    if match is None:
        raise ValueError(f"{operand} is no address")
    return Address(match[1], int(match[2] or "0", 0))


def elements(operand: str) -> tuple[str, ...]:
    """The parts of a vector in braces, or the operand itself."""
    if not operand.startswith("{"):
        return (operand,)
    return tuple(part.strip() for part in operand.strip("{} ").split(","))


def _registers(operands: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(register for operand in operands for register in _REGISTER.findall(operand)))


def _statements(body: str) -> list[str]:
    """Labels and instructions, without comments, directives and what follows the kernel."""
    code = re.split(r"^\s*\.section|^}", re.sub(r"//[^\n]*", "", body), maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip() for line in code.splitlines()]
    kept = "\n".join(line for line in lines if line and not line.startswith(".")).replace(":\n", ":;")
    return [statement for part in kept.split(";") if (statement := part.strip()) and statement not in "{}"]


def _blocks(statements: list[str]) -> tuple[tuple[tuple[Instruction, ...], ...], dict[str, int]]:
    """Blocks and, by label, the block that begins there. Labels that nobody branches to, as those of lines, are none."""
    jumped_to = {_instruction(one).operands[0] for one in statements if re.match(r"(?:@!?%\w+\s+)?bra\b", one)}
    blocks: list[list[Instruction]] = [[]]
    targets: dict[str, int] = {}
    for statement in statements:
        label = _LABEL.fullmatch(statement)
        if label is None:
            blocks[-1].append(_instruction(statement))
            if blocks[-1][-1].name in _ENDS_BLOCK:
                blocks.append([])
        elif label[1] in jumped_to:
            if blocks[-1]:
                blocks.append([])
            targets[label[1]] = len(blocks) - 1
    return tuple(map(tuple, blocks)), targets


def _instruction(statement: str) -> Instruction:
    match = _STATEMENT.fullmatch(statement)
    if match is None:
        raise ValueError(f"{statement} is no instruction")
    name, *modifiers = match[3].replace("::cta", "").split(".")
    return Instruction(name, tuple(modifiers), _operands(match[4]), match[2] or "", match[1] == "!")


def _operands(text: str) -> tuple[str, ...]:
    """The operands, separated by commas outside braces and brackets."""
    return tuple(part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip())
