"""Batches of a split in a given order, on the device of the training: taken there where the split is in memory, and else
read by worker processes or in this one."""

import signal
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.data.mixing import Mixer, missing_partners
from training.data.splits import Batch, Split, TensorSplit, View
from training.data.transfer import transfer
from training.seeds import derived_seed

GRACE = 20
"""Seconds that a worker goes on for after it was told to end, if the trainer does not end it before."""

CPU = torch.device("cpu")

Key = tuple[Tensor, View | None]


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
        self.device, self.mixer, self.plan = device, mixer, _Plan()
        self.reading: Generator[Batch, None, None] | None = None
        self.loader: DataLoader[Batch] = DataLoader(
            _Batches(split), batch_size=None, sampler=self.plan, num_workers=workers, persistent_workers=workers > 0,
            # By the thread that takes batches from the workers, where there are any.
            pin_memory=device.type == "cuda" and workers > 0,
            collate_fn=_unchanged, worker_init_fn=_leave_signals_to_the_trainer,
            # Of its own, because a loader without one takes a number from the global generator, resumed or not.
            generator=torch.Generator(),
        )  # fmt: skip

    def batches(self, parts: Sequence[Tensor], view: View | None = None) -> Iterator[Batch]:
        """A batch for each of ``parts``, the positions ``(B,)`` of its samples, or with a mixer ``(2, B)``, those of their
        partners as well."""
        self.plan.keys = [(part, view) for part in parts]
        self.reading = (self._on_device(batch, *key) for batch, key in zip(self.loader, self.plan.keys, strict=True))
        return self.reading

    def _on_device(self, batch: Batch, part: Tensor, view: View | None) -> Batch:
        batch = batch._replace(images=transfer(batch.images, self.device), labels=transfer(batch.labels, self.device))
        if self.mixer is None or view is None:
            return batch
        return self.mixer(batch, part, view)

    def close(self) -> None:
        """Ends the workers."""
        if self.reading is not None:
            self.reading.close()
        # What nobody refers to shuts its workers down.
        del self.loader

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


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
        # A partner that cannot be read is told where it is a sample itself.
        return Batch(images, labels, index, batch.broken)


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_trainer(worker: int) -> None:
    # Ctrl-C, or the end of a job, reaches the workers as well; without them the trainer could not finish its step and save.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
