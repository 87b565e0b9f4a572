"""Evaluates a network on a split: accuracies, calibration, agreement with its teacher.

The processes share the images of the split; images and networks use the memory format of the run.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from training.config import Config
from training.data import Split
from training.data.loader import Loader
from training.loop.distributed import Processes, sum_over
from training.loop.learner import run
from training.models import Network

BATCH = 250

BINS = 15
"""Number of bins of the calibration error."""

OnBroken = Callable[[Sequence[str]], None]


class UnreadableImageError(OSError):
    """An image of the data set could not be read."""


class Quality(NamedTuple):
    """The quality of a model on a split, in percent; ``pictures`` is the number of images that could be read.

    ``calibration_error`` is the expected calibration error: the mean difference between the largest probability and the
    accuracy, over 15 equal bins of that probability. ``agreement`` is the share of images for which student and teacher
    predict the same class, None without a teacher.
    """

    top1: float
    top5: float
    calibration_error: float
    agreement: float | None
    pictures: int


def warn_of_broken(messages: Sequence[str]) -> None:
    """Warns of images that were left out, for callers without an observer."""
    for message in messages:
        warnings.warn(f"left out: {message}", stacklevel=2)


def accuracy(
    network: Network,
    split: Split,
    config: Config,
    device: torch.device,
    processes: Processes,
    on_broken: OnBroken = warn_of_broken,
) -> float:
    """Top-1 accuracy in percent, in evaluation mode; every process evaluates a part of the split.

    Raises:
        UnreadableImageError: with ``strict_data``, an image could not be read. Without it the image is left out and reported
            to ``on_broken``; it is an error if no image could be read.
    """
    metric = _top1(network.classes).to(device)
    read = torch.zeros((), dtype=torch.int64, device=device)
    for (logits,), labels in predictions([network], split, config, device, processes, on_broken):
        metric.update(logits.argmax(dim=1), labels)
        read += len(labels)
    if len(split):
        _images_read(read, split)
    return 100 * metric.compute().item()


def measure(
    network: Network,
    split: Split,
    config: Config,
    device: torch.device,
    processes: Processes,
    on_broken: OnBroken = warn_of_broken,
    teacher: Network | None = None,
) -> Quality:
    """All values of ``Quality``, in evaluation mode; every process evaluates a part of the split.

    Raises:
        UnreadableImageError: as in ``accuracy``.
    """
    classes = network.classes
    metrics = MetricCollection(
        {
            "top1": _top1(classes),
            "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro", validate_args=False),
            "calibration_error": MulticlassCalibrationError(classes, n_bins=BINS, validate_args=False),
        },
        compute_groups=False,
    ).to(device)
    agreement = _top1(classes).to(device)
    read = torch.zeros((), dtype=torch.int64, device=device)
    networks = [network] if teacher is None else [network, teacher]
    for (own, *others), labels in predictions(networks, split, config, device, processes, on_broken):
        metrics.update(own.softmax(dim=1), labels)
        for other in others:
            agreement.update(own.argmax(dim=1), other.argmax(dim=1))
        read += len(labels)
    pictures = _images_read(read, split)
    percent = {name: 100 * value.item() for name, value in metrics.compute().items()}
    return Quality(**percent, agreement=None if teacher is None else 100 * agreement.compute().item(), pictures=pictures)


def _top1(classes: int) -> MulticlassAccuracy:
    return MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)


def _images_read(own: Tensor, split: Split) -> int:
    """The number of images that all processes have read, of which this one has read ``own``; 0 is an error."""
    images = int(sum_over(own).item())
    if not images:
        raise UnreadableImageError(f"none of the {len(split)} images of a split could be read")
    return images


@torch.no_grad()
def predictions(
    networks: Sequence[Network],
    split: Split,
    config: Config,
    device: torch.device,
    processes: Processes,
    on_broken: OnBroken = warn_of_broken,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Logits ``(B, C)`` float32 of each network and labels ``(B,)``, for this process's part of a split; restores the
    networks' modes."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    positions = torch.arange(processes.rank, len(split), processes.count)
    with Loader(split, workers=config.workers, device=device) as loader:
        for batch in loader.batches(positions.split(BATCH)):
            if batch.broken:
                refuse_broken(batch.broken, config)
                on_broken(batch.broken)
            if len(batch.labels):
                images = formatted(batch.images, config)
                outputs = [run(network, images, precision=config.precision, features=False) for network in networks]
                yield [output.logits for output in outputs], batch.labels
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)


def refuse_broken(broken: Sequence[str], config: Config) -> None:
    """Raises an error for images that could not be read, if the run is strict."""
    if broken and config.strict_data:
        raise UnreadableImageError(f"strict_data: {'; '.join(broken)}")


def formatted(images: Tensor, config: Config) -> Tensor:
    """Images in the memory format of the run."""
    return images.contiguous(memory_format=torch.channels_last) if config.channels_last else images


def network_on(device: torch.device, model: nn.Module, classes: int, config: Config) -> Network:
    """A model with ``classes`` outputs as a ``Network``, in the memory format of the run."""
    network = Network(model, classes).to(device)
    return network.to(memory_format=torch.channels_last) if config.channels_last else network
