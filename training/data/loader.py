"""Batches of a split in a given order, on the training device: gathered there if the split is in memory, otherwise read by
worker processes or by this process.

Workers return their batches through shared memory. Its size is checked before the first batch, because a signal kills a
worker that finds too little. A worker that dies, or returns nothing for too long, ends the run with a message.
"""

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.data.mixing import Mixer, missing_partners
from training.data.splits import Batch, Split, TensorSplit, View
from training.data.transfer import transfer
from training.seeds import derived_seed

GRACE = 20
"""Seconds that a worker continues after SIGTERM, unless the trainer ends it earlier."""

CPU = torch.device("cpu")

PREFETCHED = 2
"""Batches that each worker reads ahead."""

START_SECONDS, IMAGE_SECONDS = 60, 1
"""Seconds that a worker may take for its first batch, and for each image."""

STOPPED_SECONDS = 10
"""Additional seconds that the trainer waits for a worker that does not answer at all."""

SHARED_MEMORY = Path("/dev/shm")
"""The location of shared memory on Linux."""

Key = tuple[Tensor, View | None]


class WorkerError(OSError):
    """A process that reads images died, or returned nothing for too long."""


class Loader:
    """Reads a split batch by batch; the workers live until ``close``, or the end of a ``with`` block.

    Args:
        split: is moved to ``device`` if it is in memory.
        workers: processes that read; none where the split is in memory.
        device: of the images and labels of the batches.
        mixer: of the samples, if they are mixed.
    """

    def __init__(self, split: Split, *, workers: int, device: torch.device = CPU, mixer: Mixer | None = None) -> None:
        if isinstance(split, TensorSplit):
            split.move(device)
            workers = 0
        self.split, self.workers = split, workers
        self.device, self.mixer, self.plan = device, mixer, _Plan()
        self.reading: Generator[Batch, None, None] | None = None
        self.loader: DataLoader[Batch] = DataLoader(
            _Batches(split), batch_size=None, sampler=self.plan, num_workers=workers, persistent_workers=workers > 0,
            prefetch_factor=PREFETCHED if workers else None,
            # By the thread that receives batches from the workers, if there are any.
            pin_memory=device.type == "cuda" and workers > 0,
            collate_fn=_unchanged, worker_init_fn=_prepare_worker,
            # Its own generator: a loader without one draws from the global generator, resumed or not.
            generator=torch.Generator(),
        )  # fmt: skip

    def batches(self, parts: Sequence[Tensor], view: View | None = None) -> Iterator[Batch]:
        """A batch for each of ``parts``, the positions ``(B,)`` of its samples, or with a mixer ``(2, B)``, those of their
        partners as well.

        Raises:
            ValueError: shared memory is too small for the workers.
            WorkerError: while they are read.
        """
        self.plan.keys = [(part, view) for part in parts]
        if self.workers:
            largest = max((part.shape[-1] for part in parts), default=0)
            refuse_small_memory(self.split, largest, workers=self.workers, batches=len(parts))
            self.loader.timeout = max(self.loader.timeout, START_SECONDS + IMAGE_SECONDS * largest)
        self.reading = self._read()
        return self.reading

    def _read(self) -> Generator[Batch, None, None]:
        iterator, keys = iter(self.loader), iter(self.plan.keys)
        while True:
            try:
                with worker_failures(), self._time_limit():
                    batch = next(iterator, None)
            except (EOFError, ConnectionError, FileNotFoundError) as error:
                # PyTorch marks what a worker raised; the rest comes from the shared memory of one that has just died.
                if "DataLoader worker process" in str(error):
                    raise
                raise _failure(f"it exited unexpectedly ({type(error).__name__})") from error
            if batch is None:
                return
            yield self._on_device(batch, *next(keys))

    def _on_device(self, batch: Batch, part: Tensor, view: View | None) -> Batch:
        batch = batch._replace(images=transfer(batch.images, self.device), labels=transfer(batch.labels, self.device))
        if self.mixer is None or view is None:
            return batch
        return self.mixer(batch, part, view)

    @contextlib.contextmanager
    def _time_limit(self) -> Iterator[None]:
        """Limits a wait that PyTorch itself does not limit: for a stopped worker to hand over shared memory."""
        if not self.workers or threading.current_thread() is not threading.main_thread():
            yield
            return

        def give_up(number: int, frame: FrameType | None) -> None:
            raise _failure(f"it did not answer for {limit:.0f} seconds")

        limit = self.loader.timeout + STOPPED_SECONDS
        before = signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def close(self) -> None:
        """Ends the workers, including those that do not respond."""
        if self.reading is not None:
            self.reading.close()
        iterator: Any = getattr(self.loader, "_iterator", None)
        if iterator is None:
            return
        # Not left to the end of the iterator's life, which the traceback of an error prolongs.
        iterator._shutdown_workers()
        for worker in iterator._workers:
            if worker.is_alive():
                worker.kill()
                worker.join()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextlib.contextmanager
def worker_failures() -> Iterator[None]:
    """Turns the error that PyTorch raises when a worker dies or returns nothing for too long into a ``WorkerError``."""
    try:
        yield
    except RuntimeError as error:
        if not re.match(r"DataLoader (worker \(pid|timed out)", str(error)):
            raise
        raise _failure(str(error).splitlines()[0].rstrip(". ")) from error


def _failure(told: str) -> WorkerError:
    return WorkerError(
        f"a process that reads images failed: {told}. Its files may be unreachable or its memory too small: give the "
        "container more (docker run --shm-size), or use fewer --workers, 0 for none. --resume continues from the last "
        "checkpoint"
    )


def refuse_small_memory(split: Split, batch: int, *, workers: int, batches: int, held: int = 1) -> None:
    """Refuses workers whose batches do not fit into shared memory, together with those of the machine's other processes.

    Args:
        split: the split to read.
        batch: samples per batch.
        workers: number of workers.
        batches: total number of batches to read.
        held: number of batches in use at a time.

    Raises:
        ValueError: says what would help.
    """
    free = free_shared_memory()
    if not workers or free is None or isinstance(split, TensorSplit):
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    size = batch * sample_bytes(split)
    needed = processes * min(batches, workers * PREFETCHED + held) * size
    if needed > free:
        raise ValueError(
            f"workers: {processes * workers} of them need {_megabytes(needed)} of shared memory for batches of "
            f"{_megabytes(size)}, and {SHARED_MEMORY} has {_megabytes(free)} left; start the container with a larger one "
            f"(docker run --shm-size={-(-needed // 2**30) + 1}g), or read without workers (--workers 0), or with fewer"
        )


def sample_bytes(split: Split) -> int:
    """Bytes of a sample as a worker returns it."""
    none = split.load(torch.zeros(0, dtype=torch.int64))
    return sum(tensor.element_size() * tensor.shape[1:].numel() for tensor in none[:3])


def free_shared_memory() -> int | None:
    """Free bytes of shared memory, or None if the system does not report them."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The positions ``(count,)`` of an epoch's samples in random order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed("order", seed, epoch)))


class _Plan(Sampler[Key]):
    def __init__(self) -> None:
        self.keys: list[Key] = []

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Batches(Dataset[Batch]):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, key: Key) -> Batch:
        part, view = key
        if part.dim() == 1:
            return self.split.load(part, view)
        batch, partners = self.split.load(part[0], view), missing_partners(part)
        if not len(partners) or not len(batch.index):
            return batch
        others = self.split.load(partners, view)
        if not len(others.index):
            return batch
        images, labels, index = (torch.cat(pair) for pair in zip(batch[:3], others[:3], strict=True))
        # An unreadable partner is reported where it is a sample itself.
        return Batch(images, labels, index, batch.broken)


def _unchanged(batch: Any) -> Any:
    return batch


def _prepare_worker(worker: int) -> None:
    _leave_signals_to_the_trainer()
    # The trainer would wait until the time limit for a batch that cannot be sent, for example for lack of shared memory.
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, item: object) -> None:
    print(f"a process that reads images cannot send a batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _leave_signals_to_the_trainer() -> None:
    # Ctrl-C, or the end of a job, reaches the workers as well; without them the trainer could not finish its step and save.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
