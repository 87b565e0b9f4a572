"""Global and shared memory of the programs that are executed together, and the cost of an access for each warp.

Lanes are the threads of all these programs; 32 of them form a warp. An access has the same number of bytes for each lane.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.clock_model.values import UNSIGNED, Array

WARP, SECTOR, BANKS = 32, 32, 32

_BUFFER_BITS = 40
"""A pointer consists of a buffer number, counted from 1, above this many bits of an offset. Results thus do not depend on
where the CPU allocator puts a tensor, and no access can run from one buffer into another."""


class Cost(NamedTuple):
    """What each warp moves in one access."""

    sectors: Array
    """Distinct 32-byte sectors of global memory."""
    missed: Array
    """Sectors that the program had not accessed before, or that bypass the L1 cache."""
    wavefronts: Array
    """Passes through shared memory: 1 per 128 bytes, plus one for each additional word in the busiest bank."""
    ideal: Array
    """Sectors of a dense access to the same number of bytes."""
    written: bool = False
    """Whether it is a store."""


class GlobalMemory:
    """The memory of CPU tensors, by storage."""

    def __init__(self, tensors: Sequence[torch.Tensor], programs: int, threads: int) -> None:
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
        self._numbers = {pointer: number for number, pointer in enumerate(storages, 1)}
        self._data = [_bytes_of(storage) for storage in storages.values()]
        self._program = np.repeat(np.arange(programs), threads)
        self._seen = [np.zeros((programs, -(-len(data) // SECTOR)), bool) for data in self._data]

    def pointer(self, tensor: torch.Tensor) -> int:
        """The stand-in for the address of a tensor's first element."""
        offset = tensor.storage_offset() * tensor.element_size()
        return (self._numbers[tensor.untyped_storage().data_ptr()] << _BUFFER_BITS) + int(offset)

    def load(self, pointers: Array, active: Array, bits: int, count: int) -> Array:
        """``count`` numbers of each active lane, ``(lanes, count)``."""
        result = np.zeros((len(pointers), count), UNSIGNED[bits])
        for data, lanes, first in self._parts(pointers, active, bits, count):
            result[lanes] = data[first[:, None] + np.arange(count)]
        return result

    def store(self, pointers: Array, active: Array, numbers: Array) -> None:
        """Writes the numbers ``(lanes, count)`` of the active lanes."""
        bits, count = 8 * numbers.dtype.itemsize, numbers.shape[1]
        for data, lanes, first in self._parts(pointers, active, bits, count):
            data[first[:, None] + np.arange(count)] = numbers[lanes]

    def _parts(self, pointers: Array, active: Array, bits: int, count: int) -> list[tuple[Array, Array, Array]]:
        """For each buffer: its numbers, the lanes that access it, and the index of each lane's first number.

        Raises:
            IndexError: if a lane accesses memory outside every buffer.
            ValueError: if an address is not a multiple of the access size.
        """
        lanes, width = np.flatnonzero(active), bits // 8
        buffers, places = pointers[lanes] >> np.uint64(_BUFFER_BITS), pointers[lanes] & np.uint64((1 << _BUFFER_BITS) - 1)
        if (places % np.uint64(width * count)).any():
            raise ValueError(f"an access of {width * count} bytes is not aligned to them")
        parts = []
        for buffer in np.unique(buffers):
            inside = buffers == buffer
            first = (places[inside] // np.uint64(width)).astype(np.int64)
            data = self._data[int(buffer) - 1] if 0 < buffer <= len(self._data) else np.zeros(0, np.uint8)
            if len(first) and int(first.max()) + count > len(data) // width:
                raise IndexError("an access of global memory is out of bounds")
            parts.append((data[: len(data) // width * width].view(UNSIGNED[bits]), lanes[inside], first))
        return parts

    def cost(self, pointers: Array, active: Array, width: int, *, written: bool, cached: bool) -> Cost:
        """The cost of an access of ``width`` bytes per lane.

        Args:
            pointers: of the lanes.
            active: the lanes that take part.
            width: bytes per lane, at most a sector.
            written: whether it is a store.
            cached: whether the L1 cache keeps the data.
        """
        keys = np.where(active, pointers, np.uint64(0)).reshape(-1, WARP)
        keys = np.sort(keys, 1)
        different = np.diff(keys, axis=1, prepend=np.uint64(0)) != 0
        sectors = keys // np.uint64(SECTOR)
        first = np.diff(sectors, axis=1, prepend=np.uint64(0)) != 0
        missed = self._mark(sectors, first) if cached and not written else first
        counts = first.sum(1)
        ideal = -(-different.sum(1) * width // SECTOR)
        return Cost(counts, missed.sum(1), np.zeros_like(counts), ideal, written)

    def _mark(self, sectors: Array, first: Array) -> Array:
        """Which sectors, in one row per warp, their program accesses for the first time."""
        programs = np.broadcast_to(self._program.reshape(-1, WARP)[:, :1], sectors.shape)
        shift = np.uint64(_BUFFER_BITS - SECTOR.bit_length() + 1)
        buffers, places = sectors >> shift, sectors & ((np.uint64(1) << shift) - np.uint64(1))
        missed = np.zeros_like(first)
        for buffer in np.unique(buffers[first]):
            here = first & (buffers == buffer)
            seen, where = self._seen[int(buffer) - 1], (programs[here], places[here].astype(np.int64))
            missed[here] = ~seen[where]
            seen[where] = True
        return missed


def _bytes_of(storage: torch.UntypedStorage) -> Array:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


class SharedMemory:
    """The shared memory of each program. Initially it holds NaN in every type."""

    def __init__(self, size: int, programs: int, threads: int) -> None:
        self._size = size
        self._stride = -(-size // 16) * 16
        self._data = np.full(self._stride * programs, 0xFF, np.uint8)
        self._base = np.repeat(np.arange(programs) * self._stride, threads)

    def load(self, places: Array, active: Array, bits: int, count: int) -> Array:
        """``count`` numbers of each active lane, ``(lanes, count)``."""
        lanes, first = self._first(places, active, bits, count)
        result = np.zeros((len(places), count), UNSIGNED[bits])
        result[lanes] = self._data.view(UNSIGNED[bits])[first[:, None] + np.arange(count)]
        return result

    def store(self, places: Array, active: Array, numbers: Array) -> None:
        """Writes the numbers ``(lanes, count)`` of the active lanes."""
        bits, count = 8 * numbers.dtype.itemsize, numbers.shape[1]
        lanes, first = self._first(places, active, bits, count)
        self._data.view(UNSIGNED[bits])[first[:, None] + np.arange(count)] = numbers[lanes]

    def _first(self, places: Array, active: Array, bits: int, count: int) -> tuple[Array, Array]:
        """The active lanes, and the index of each lane's first number.

        Raises:
            IndexError: if an access leaves the program's memory.
            ValueError: if an address is not a multiple of the access size.
        """
        lanes, width = np.flatnonzero(active), bits // 8
        first = places[lanes].astype(np.int64)
        if len(first) and (first.min() < 0 or first.max() + width * count > self._size):
            raise IndexError("an access of shared memory is out of bounds")
        if (first % (width * count)).any():
            raise ValueError(f"an access of {width * count} bytes is not aligned to them")
        return lanes, (first + self._base[lanes]) // width

    def cost(self, places: Array, active: Array, width: int) -> Cost:
        """The cost of an access of ``width`` bytes per lane."""
        # A pass serves 128 bytes: a whole warp, or half or a quarter of one with 8 or 16 bytes per lane.
        words = np.arange(max(1, width // 4))
        lanes = BANKS // len(words)
        accessed = (places.astype(np.int64)[:, None] // 4 + words).reshape(-1, lanes * len(words))
        used = np.broadcast_to(active[:, None], (len(active), len(words))).reshape(accessed.shape)
        wavefronts = busiest_bank(accessed, used).reshape(-1, WARP // lanes).sum(1)
        none = np.zeros_like(wavefronts)
        return Cost(none, none, wavefronts, none)


def busiest_bank(words: Array, used: Array) -> Array:
    """The number of distinct words in the bank with most of them, for each row of used words."""
    keys = np.sort(np.where(used, words % BANKS << 40 | words, -1), 1)
    different = (np.diff(keys, axis=1, prepend=-1) != 0) & (keys >= 0)
    rows = np.broadcast_to(np.arange(len(keys))[:, None], keys.shape)
    counts = np.bincount((rows * BANKS + (keys >> 40))[different], minlength=BANKS * len(keys))
    return counts.reshape(-1, BANKS).max(1)
