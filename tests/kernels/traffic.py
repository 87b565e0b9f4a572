"""Counts how often each launch reads and writes each element of its tensors, as ttsem executes it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from ttsem import harness
from ttsem.memory import Memory

Integers = NDArray[np.int64]

PENDING = 2**20
"""Addresses are collected up to this number, because each count passes over whole storages."""


class Counts(NamedTuple):
    """How often each element of a tensor is read and written, in the shape of the tensor."""

    loads: Integers
    stores: Integers


class _Accesses:
    """Accesses of one kind, counted for each byte of some storages."""

    def __init__(self, storages: Iterable[torch.UntypedStorage]) -> None:
        self._counts = {storage.data_ptr(): np.zeros(storage.nbytes(), dtype=np.int64) for storage in storages}
        self._pending: dict[int, list[Integers]] = defaultdict(list)
        self._number = 0

    def add(self, addresses: Integers, itemsize: int) -> None:
        self._pending[itemsize].append(addresses)
        self._number += addresses.size
        if self._number > PENDING:
            self._count()

    def counts(self) -> dict[int, Integers]:
        """By the address of the storage."""
        self._count()
        return self._counts

    def _count(self) -> None:
        for itemsize, pending in self._pending.items():
            addresses = np.concatenate(pending)
            for base, counts in self._counts.items():
                offsets = addresses - base
                offsets = offsets[(offsets >= 0) & (offsets < counts.size)]
                if offsets.size:
                    accesses = np.bincount(offsets, minlength=counts.size)
                    for byte in range(itemsize):
                        counts[byte:] += accesses[: counts.size - byte]
        self._pending.clear()
        self._number = 0


class LaunchTraffic:
    """The accesses of one launch to its tensor arguments.

    Counts are of elements that a program requests with a true mask, not of transactions: neither caches nor threads that
    hold the same element show. An atomic operation counts as a load and a store.

    Attributes:
        kernel: its name.
        tensors: the tensor arguments by name. Several may share a storage; the bytes of a launch include each storage
            once.
    """

    def __init__(self, launch: harness.LaunchRecord) -> None:
        self.kernel: str = launch.fn_name
        leaves = harness._leaf_bound(launch)
        self.tensors: dict[str, Tensor] = {name: _tensor_of(leaves[name]) for name in launch.ptrs}
        # Kept so that no other tensor gets the same address while the counts exist.
        self._storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in self.tensors.values()}
        self._loads = _Accesses(self._storages.values())
        self._stores = _Accesses(self._storages.values())

    def counts_of(self, tensor: Tensor) -> Counts:
        """How often the launch reads and writes each element of ``tensor``.

        Args:
            tensor: any view, of any dtype, of the storage of an argument.

        Raises:
            KeyError: if no argument has the storage of ``tensor``.
        """
        base = tensor.untyped_storage().data_ptr()
        loads, stores = (_in_shape_of(tensor, kind.counts()[base]) for kind in (self._loads, self._stores))
        return Counts(loads, stores)

    @property
    def counts(self) -> dict[str, Counts]:
        """``counts_of`` every tensor by the name of the argument."""
        return {name: self.counts_of(tensor) for name, tensor in self.tensors.items()}

    @property
    def loaded_bytes(self) -> int:
        """Bytes read, counted every time."""
        return sum(int(counts.sum()) for counts in self._loads.counts().values())

    @property
    def stored_bytes(self) -> int:
        """Bytes written, counted every time."""
        return sum(int(counts.sum()) for counts in self._stores.counts().values())

    @property
    def requested_bytes(self) -> int:
        """Bytes read and written, counted every time."""
        return self.loaded_bytes + self.stored_bytes

    @property
    def compulsory_bytes(self) -> int:
        """Distinct bytes read plus distinct bytes written: the least that any order of the work must move."""
        kinds = (self._loads, self._stores)
        return sum(int(np.count_nonzero(counts)) for kind in kinds for counts in kind.counts().values())


def total_counts_of(launches: list[LaunchTraffic], tensor: Tensor) -> Counts:
    """How often the launches together read and write each element of ``tensor``; not all need to have it as an argument."""
    loads, stores = (np.zeros(tuple(tensor.shape), dtype=np.int64) for _ in range(2))
    for launch in launches:
        if tensor.untyped_storage().data_ptr() in launch._storages:
            counts = launch.counts_of(tensor)
            loads += counts.loads
            stores += counts.stores
    return Counts(loads, stores)


@contextmanager
def count_traffic() -> Iterator[list[LaunchTraffic]]:
    """Inside ``simulator``, appends the traffic of every launch to the list, also of one that faults."""
    launches: list[LaunchTraffic] = []
    execute, load, store, atomic = harness.execute, Memory.load, Memory.store, Memory.atomic

    def counted_execute(launch: harness.LaunchRecord, *args: Any, **options: Any) -> harness.Execution:
        launches.append(LaunchTraffic(launch))
        return execute(launch, *args, **options)

    def counted_load(self: Memory, addresses: Any, mask: Any, other: Any, dtype: Any) -> Any:
        loaded = load(self, addresses, mask, other, dtype)
        launches[-1]._loads.add(_live(addresses, mask), np.dtype(dtype).itemsize)
        return loaded

    def counted_store(self: Memory, addresses: Any, values: Any, mask: Any) -> None:
        store(self, addresses, values, mask)
        launches[-1]._stores.add(_live(addresses, mask), np.asarray(values).dtype.itemsize)

    def counted_atomic(self: Memory, kind: str, addresses: Any, values: Any, mask: Any, *args: Any, **options: Any) -> Any:
        old = atomic(self, kind, addresses, values, mask, *args, **options)
        launches[-1]._loads.add(_live(addresses, mask), old.dtype.itemsize)
        launches[-1]._stores.add(_live(addresses, mask), old.dtype.itemsize)
        return old

    with (
        mock.patch.object(harness, "execute", counted_execute),
        mock.patch.object(Memory, "load", counted_load),
        mock.patch.object(Memory, "store", counted_store),
        mock.patch.object(Memory, "atomic", counted_atomic),
    ):
        yield launches


def _tensor_of(argument: Any) -> Tensor:
    """The tensor itself, or the one that a descriptor describes."""
    tensor: Tensor = harness._unwrap(argument)
    return tensor


def _live(addresses: Any, mask: Any) -> Integers:
    """The addresses of the lanes that are not masked."""
    lanes: Integers = np.asarray(addresses, dtype=np.int64)
    live: Integers = lanes[np.broadcast_to(True if mask is None else np.asarray(mask, dtype=bool), lanes.shape)]
    return live


def _in_shape_of(tensor: Tensor, counts: Integers) -> Integers:
    """The counts at the first byte of each element of a tensor, from the counts of all bytes of its storage."""
    itemsize = tensor.element_size()
    return np.array(
        np.lib.stride_tricks.as_strided(
            counts[tensor.storage_offset() * itemsize :],
            tuple(tensor.shape),
            [stride * itemsize * counts.itemsize for stride in tensor.stride()],
        )
    )
