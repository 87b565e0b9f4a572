"""Executes programs of a kernel from its PTX on the CPU, and records what each warp executed and what its accesses cost.

All programs of a group are executed together: one instruction, for all of their threads, is one NumPy operation. Programs of
a group must not wait for each other. Asynchronous copies arrive only when they are waited for; shared memory holds NaN until
it is written.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.clock_model.arithmetic import operation
from benchmarks.clock_model.memory import WARP, Cost, GlobalMemory, SharedMemory
from benchmarks.clock_model.ptx import Instruction, Kernel, address, elements
from benchmarks.clock_model.registers import Mask, Reader, Registers
from benchmarks.clock_model.values import UNSIGNED, Array, bits_of, bits_of_argument, numbers_of, type_of
from benchmarks.clock_model.warps import (
    Fragments,
    MultiplyAdd,
    matrices,
    reduction,
    rounded_multiply_add,
    shuffle,
    vote,
)

Step = Callable[[Mask], Cost | None]

Program = tuple[int, int, int]
"""A program's position in the grid."""


class Event(NamedTuple):
    """A basic block that some warps executed together, and the costs of its accesses in order."""

    block: int
    warps: Array
    costs: list[Cost]


def execute(
    kernel: Kernel,
    grid: Program,
    programs: Sequence[Program],
    arguments: Sequence[Any],
    shared_bytes: int,
    multiply_add: MultiplyAdd = rounded_multiply_add,
) -> list[Event]:
    """Executes some programs of a launch, which write their results to the arguments.

    In the events, the warps of a program follow those of the previous one.

    Args:
        kernel: the parsed PTX.
        grid: the number of programs in each dimension.
        programs: the programs to execute.
        arguments: CPU tensors and numbers, in the order of the parameters; missing ones at the end are 0.
        shared_bytes: of each program.
        multiply_add: the operation of a tensor core.

    Raises:
        NotImplementedError: with the name of an unsupported instruction.
    """
    with np.errstate(all="ignore"):
        return _Machine(kernel, grid, programs, arguments, shared_bytes, multiply_add).run()


class _Machine:
    """A group of programs during execution."""

    def __init__(
        self,
        kernel: Kernel,
        grid: Program,
        programs: Sequence[Program],
        arguments: Sequence[Any],
        shared_bytes: int,
        multiply_add: MultiplyAdd,
    ) -> None:
        self._kernel, self._lanes = kernel, len(programs) * kernel.threads
        self._all = np.ones(self._lanes, bool)
        self._multiply_add = multiply_add
        tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
        self._global = GlobalMemory(tensors, len(programs), kernel.threads)
        self._shared = SharedMemory(shared_bytes, len(programs), kernel.threads)
        self._copies = _Copies(self._shared, self._lanes)
        self._registers = Registers(kernel, self._special(grid, programs), self._lanes)
        self._arguments = self._bits_of_arguments(arguments)
        self._steps = [[self._step(one) for one in block if one.name not in _CONTROL] for block in kernel.blocks]

    def run(self) -> list[Event]:
        """Executes all programs; always advances the threads that are furthest behind, so that branches reconverge."""
        at, alive, waiting = np.zeros(self._lanes, np.int64), self._all.copy(), np.zeros(self._lanes, bool)
        events = []
        while alive.any():
            ready = alive & ~waiting
            if not ready.any():
                raise RuntimeError(f"threads of {self._kernel.name} wait at a barrier that others have left")
            block = int(at[ready].min())
            here = ready & (at == block)
            mask = None if here.all() else here
            costs = [cost for step in self._steps[block] if (cost := step(mask)) is not None]
            events.append(Event(block, here.reshape(-1, WARP).any(1), costs))
            self._leave(block, here, at, alive, waiting)
        return events

    def _leave(self, block: int, here: Array, at: Array, alive: Array, waiting: Array) -> None:
        """Executes the last instruction of a block."""
        instructions = self._kernel.blocks[block]
        at[here] = block + 1
        last = instructions[-1] if instructions else None
        if last is None or block + 1 == len(self._kernel.blocks):
            alive[here] = False
        elif last.name in _CONTROL:
            taken = here & self._predicate(last)
            if last.name == "bra":
                at[taken] = self._kernel.targets[last.operands[0]]
            elif last.name in ("ret", "exit"):
                alive[taken] = False
            else:
                waiting[here] = True
        # A barrier opens when all threads of a program that have not ended wait at it.
        arrived = (waiting | ~alive).reshape(-1, self._kernel.threads).all(1)
        waiting &= ~np.repeat(arrived, self._kernel.threads)

    def _predicate(self, instruction: Instruction) -> Array:
        if not instruction.predicate:
            return self._all
        true = self._registers.reader(instruction.predicate, type_of("pred"))()
        return ~true if instruction.negated else true

    def _special(self, grid: Program, programs: Sequence[Program]) -> dict[str, Array]:
        """Special registers with each lane's position, and stand-ins for the addresses of parameters."""
        threads = self._kernel.threads
        thread = np.tile(np.arange(threads, dtype=np.uint32), len(programs))
        result = {"%tid.x": thread, "%laneid": thread % WARP, "%warpid": thread // WARP}
        result["%ntid.x"] = np.full(self._lanes, threads, np.uint32)
        for axis, name in enumerate("xyz"):
            result[f"%ctaid.{name}"] = np.repeat(np.array([one[axis] for one in programs], np.uint32), threads)
            result[f"%nctaid.{name}"] = np.full(self._lanes, grid[axis], np.uint32)
        for index, parameter in enumerate(self._kernel.parameters):
            result[parameter.name] = np.full(self._lanes, _PARAMETER_BYTES * index, np.uint64)
        return result

    def _bits_of_arguments(self, arguments: Sequence[Any]) -> Array:
        """The bits of the parameters, in order."""
        result = np.zeros(len(self._kernel.parameters), np.uint64)
        for index, (parameter, value) in enumerate(zip(self._kernel.parameters, arguments, strict=False)):
            is_tensor = isinstance(value, torch.Tensor)
            result[index] = self._global.pointer(value) if is_tensor else bits_of_argument(value, type_of(parameter.type))
        return result

    def _step(self, instruction: Instruction) -> Step:
        """An instruction as a function of the lanes that execute it."""
        build = _BUILDERS.get(instruction.name, _Machine._arithmetic)
        step = build(self, instruction)
        if not instruction.predicate:
            return step
        predicate = self._registers.reader(instruction.predicate, type_of("pred"))

        def predicated(mask: Mask) -> Cost | None:
            chosen = ~predicate() if instruction.negated else predicate()
            return step(chosen if mask is None else chosen & mask)

        return predicated

    def _active(self, mask: Mask) -> Array:
        return self._all if mask is None else mask

    def _read_all(self, operands: Sequence[str], kind: str) -> list[Reader]:
        return [self._registers.reader(operand, type_of(kind)) for operand in operands]

    def _address(self, operand: str, space: str) -> Reader:
        """Reads the address of every lane."""
        base, offset = address(operand)
        kind = type_of("u32" if space == "shared" else "u64")
        read = self._registers.reader(base, kind)
        # Addresses wrap around, so that negative offsets are large positive ones.
        moved = kind.dtype.type(offset % (1 << kind.bits))
        return lambda: read() + moved

    def _arithmetic(self, instruction: Instruction) -> Step:
        function, sources, result = operation(instruction)
        destination, *operands = instruction.operands
        if len(operands) != len(sources) or "|" in destination:
            raise NotImplementedError(instruction.full_name)
        readers = [self._registers.reader(one, type_of(kind)) for one, kind in zip(operands, sources, strict=True)]
        write = self._registers.writer(destination, type_of(result))

        def step(mask: Mask) -> None:
            write(function(*[read() for read in readers]), mask)

        return step

    def _move(self, instruction: Instruction) -> Step:
        destination, source = instruction.operands
        kind = type_of(instruction.type)
        if source.startswith("{"):
            return self._packing(destination, elements(source), kind.bits)
        if destination.startswith("{"):
            return self._unpacking(elements(destination), source, kind.bits)
        read, write = self._registers.reader(source, kind), self._registers.writer(destination, kind)
        return lambda mask: write(read(), mask)

    def _packing(self, destination: str, parts: Sequence[str], bits: int) -> Step:
        """Packs registers into a wider one, the first one lowest."""
        part = type_of(f"b{bits // len(parts)}")
        readers = [self._registers.reader(one, part) for one in parts]
        write = self._registers.writer(destination, type_of(f"b{bits}"))

        def step(mask: Mask) -> None:
            write(np.stack([read() for read in readers], 1).view(UNSIGNED[bits]).ravel(), mask)

        return step

    def _unpacking(self, parts: Sequence[str], source: str, bits: int) -> Step:
        """Unpacks a wider register, lowest part first."""
        part = type_of(f"b{bits // len(parts)}")
        read = self._registers.reader(source, type_of(f"b{bits}"))
        writers = [self._registers.writer(one, part) for one in parts]

        def step(mask: Mask) -> None:
            halves = np.ascontiguousarray(read()).view(part.dtype).reshape(-1, len(parts))
            for index, write in enumerate(writers):
                write(np.ascontiguousarray(halves[:, index]), mask)

        return step

    def _load(self, instruction: Instruction) -> Step:
        kind, names = type_of(instruction.type), elements(instruction.operands[0])
        if instruction.space == "param":
            return self._load_parameter(instruction)
        writers = [self._registers.writer(name, kind) for name in names]
        pointers = self._address(instruction.operands[1], instruction.space)

        def step(mask: Mask) -> Cost:
            places, active = pointers(), self._active(mask)
            loaded = self._memory(instruction).load(places, active, kind.bits, len(names))
            for index, write in enumerate(writers):
                write(numbers_of(np.ascontiguousarray(loaded[:, index]), kind), mask)
            return self._cost(instruction, places, active, len(names) * kind.bits // 8)

        return step

    def _load_parameter(self, instruction: Instruction) -> Step:
        kind = type_of(instruction.type)
        places = self._address(instruction.operands[1], "param")
        write = self._registers.writer(instruction.operands[0], kind)

        def step(mask: Mask) -> None:
            write(numbers_of(self._arguments[(places() // _PARAMETER_BYTES).astype(np.int64)], kind), mask)

        return step

    def _store(self, instruction: Instruction) -> Step:
        kind, names = type_of(instruction.type), elements(instruction.operands[1])
        readers = self._read_all(names, f"b{kind.bits}")
        pointers = self._address(instruction.operands[0], instruction.space)

        def step(mask: Mask) -> Cost:
            places, active = pointers(), self._active(mask)
            self._memory(instruction).store(places, active, np.stack([read() for read in readers], 1))
            return self._cost(instruction, places, active, len(names) * kind.bits // 8, written=True)

        return step

    def _memory(self, instruction: Instruction) -> GlobalMemory | SharedMemory:
        if not instruction.space:
            raise NotImplementedError(instruction.full_name)
        return self._global if instruction.space == "global" else self._shared

    def _cost(self, instruction: Instruction, places: Array, active: Array, width: int, *, written: bool = False) -> Cost:
        if instruction.space == "shared":
            return self._shared.cost(places, active, width)
        cached = not {"cg", "cv", "volatile", "acquire"} & set(instruction.modifiers)
        return self._global.cost(places, active, width, written=written, cached=cached)

    def _copy(self, instruction: Instruction) -> Step:
        """``cp.async``, and the instructions that commit it and wait for it."""
        if instruction.modifiers[:1] != ("async",):
            raise NotImplementedError(instruction.full_name)
        if instruction.modifiers[1] == "commit_group":
            return lambda mask: self._copies.commit(self._active(mask))
        if instruction.modifiers[1] == "wait_group":
            left = int(instruction.operands[0])
            return lambda mask: self._copies.wait(self._active(mask), left)
        if instruction.modifiers[1] == "wait_all":
            return lambda mask: self._copies.wait_for_all(self._active(mask))
        return self._one_copy(instruction)

    def _one_copy(self, instruction: Instruction) -> Step:
        """From global to shared memory; fewer bytes than the width, padded with zeros, are supported only as 0 bytes."""
        destination = self._address(instruction.operands[0], "shared")
        source = self._address(instruction.operands[1], "global")
        width = int(instruction.operands[2], 0)
        copied = self._read_all(instruction.operands[3:4] or (instruction.operands[2],), "u32")[0]
        cached = "ca" in instruction.modifiers

        def step(mask: Mask) -> Cost:
            active, size = self._active(mask), copied()
            if (active & (size != 0) & (size != width)).any():
                raise NotImplementedError(f"{instruction.full_name} of fewer than {width} bytes")
            pointers, places, reading = source(), destination(), active & (size == width)
            data = self._global.load(pointers, reading, 32, width // 4)
            self._copies.begin(places, active, data)
            read = self._global.cost(pointers, reading, width, written=False, cached=cached)
            return read._replace(wavefronts=self._shared.cost(places, active, width).wavefronts)

        return step

    def _matrix_load(self, instruction: Instruction) -> Step:
        names = elements(instruction.operands[0])
        if "m8n8" not in instruction.modifiers or instruction.type != "b16":
            raise NotImplementedError(instruction.full_name)
        writers = [self._registers.writer(name, type_of("b32")) for name in names]
        pointers = self._address(instruction.operands[1], "shared")
        addressing = np.arange(self._lanes) % WARP < 8 * len(names)
        transposed = "trans" in instruction.modifiers

        def step(mask: Mask) -> Cost:
            places, active = pointers(), addressing & self._active(mask)
            rows = self._shared.load(places, active, 32, 4)
            for write, register in zip(writers, matrices(rows, len(names), transposed=transposed), strict=True):
                write(register, mask)
            return self._shared.cost(places, active, 16)

        return step

    def _product(self, instruction: Instruction) -> Step:
        fragments = Fragments(instruction)
        results, left, right, accumulator = map(elements, instruction.operands)
        writers = [self._registers.writer(name, type_of("f32")) for name in results]
        readers = [self._read_all(left, "b32"), self._read_all(right, "b32"), self._read_all(accumulator, "f32")]

        def step(mask: Mask) -> None:
            a, b, c = ([read() for read in registers] for registers in readers)
            matrix = self._multiply_add(fragments.left(a), fragments.right(b), fragments.accumulator(c))
            for write, register in zip(writers, fragments.result(matrix), strict=True):
                write(register, mask)

        return step

    def _shuffle(self, instruction: Instruction) -> Step:
        names, source, by, limits, _ = instruction.operands
        name, _, inside_name = names.partition("|")
        read = self._read_all((source, by, limits), "b32")
        write = self._registers.writer(name, type_of("b32"))
        write_inside = self._registers.writer(inside_name or "_", type_of("pred"))

        def step(mask: Mask) -> None:
            values, inside = shuffle(instruction.modifiers[1], *(one() for one in read))
            write(values, mask)
            write_inside(inside, mask)

        return step

    def _vote(self, instruction: Instruction) -> Step:
        read = self._registers.reader(instruction.operands[1], type_of("pred"))
        write = self._registers.writer(instruction.operands[0], type_of(instruction.type))
        return lambda mask: write(vote(instruction.modifiers[1], read(), self._active(mask)), mask)

    def _reduction(self, instruction: Instruction) -> Step:
        kind, function = type_of(instruction.type), reduction(instruction)
        read = self._registers.reader(instruction.operands[1], kind)
        write = self._registers.writer(instruction.operands[0], kind)
        return lambda mask: write(function(read()), mask)

    def _atomic(self, instruction: Instruction) -> Step:
        """``atom`` and ``red``: one lane after another."""
        returns = instruction.name == "atom"
        operands = instruction.operands if returns else ("_", *instruction.operands)
        kind, name = type_of(instruction.type), next((one for one in instruction.modifiers if one in _UPDATES), "")
        if not name or len(elements(operands[2])) > 1:
            raise NotImplementedError(instruction.full_name)
        pointers = self._address(operands[1], instruction.space)
        readers = self._read_all(operands[2:], instruction.type)
        write = self._registers.writer(operands[0], kind)

        def step(mask: Mask) -> Cost:
            places, active, values = pointers(), self._active(mask), [read() for read in readers]
            memory, before = self._memory(instruction), np.zeros(self._lanes, kind.dtype)
            for lane in np.flatnonzero(active):
                one = np.arange(self._lanes) == lane
                before[lane : lane + 1] = numbers_of(memory.load(places, one, kind.bits, 1)[lane], kind)
                after = _UPDATES[name](before[lane], *(value[lane] for value in values))
                bits = bits_of(np.full(self._lanes, after, kind.dtype), kind, kind.bits)
                memory.store(places, one, bits[:, None])
            write(before, mask)
            return self._cost(instruction, places, active, kind.bits // 8, written=True)

        return step

    def _nothing(self, instruction: Instruction) -> Step:
        """Does nothing: here accesses are in order, and caches keep everything."""
        return lambda mask: None


_PARAMETER_BYTES = 16
"""Distance between the addresses of two parameters."""

_CONTROL = ("bra", "bar", "barrier", "ret", "exit")

_BUILDERS: dict[str, Callable[[_Machine, Instruction], Step]] = {
    "mov": _Machine._move,
    "ld": _Machine._load,
    "st": _Machine._store,
    "cp": _Machine._copy,
    "ldmatrix": _Machine._matrix_load,
    "mma": _Machine._product,
    "shfl": _Machine._shuffle,
    "vote": _Machine._vote,
    "redux": _Machine._reduction,
    "atom": _Machine._atomic,
    "red": _Machine._atomic,
    "membar": _Machine._nothing,
    "fence": _Machine._nothing,
    # Cache hints.
    "createpolicy": _Machine._nothing,
}

_UPDATES: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda _, new: new,
    "cas": lambda old, expected, new: new if old == expected else old,
}


class _Copies:
    """Asynchronous copies in flight."""

    def __init__(self, shared: SharedMemory, lanes: int) -> None:
        self._shared = shared
        self._begun: list[tuple[Array, Array, Array]] = []
        self._groups: list[tuple[Array, list[tuple[Array, Array, Array]]]] = []

    def begin(self, places: Array, active: Array, data: Array) -> None:
        """Starts a copy of the active lanes' ``data`` to ``places`` in shared memory."""
        self._begun.append((places, active.copy(), data))

    def commit(self, lanes: Array) -> None:
        """Groups all copies that these lanes have started since their last group."""
        self._groups.append((lanes.copy(), [(places, active & lanes, data) for places, active, data in self._begun]))
        self._begun = [(places, rest, data) for places, active, data in self._begun if (rest := active & ~lanes).any()]

    def wait_for_all(self, lanes: Array) -> None:
        """Completes all copies of these lanes, including uncommitted ones."""
        self.commit(lanes)
        self.wait(lanes, 0)

    def wait(self, lanes: Array, left: int) -> None:
        """Completes all groups of these lanes except the last ``left``."""
        later = np.zeros(len(lanes), np.int64)
        due = []
        for waiting, _ in reversed(self._groups):
            due.append(waiting & lanes & (later >= left))
            later += waiting
        for (waiting, copies), arriving in zip(self._groups, reversed(due), strict=True):
            for places, active, data in copies if arriving.any() else ():
                self._shared.store(places, active & arriving, data)
            waiting &= ~arriving
        self._groups = [(waiting, copies) for waiting, copies in self._groups if waiting.any()]
