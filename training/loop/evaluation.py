"""The accuracy of a network on a split, shared among the processes; images and networks in the format of a run."""

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from training.config import Config
from training.data import Split
from training.data.loader import Loader
from training.loop.distributed import Processes, sum_over
from training.loop.learner import run
from training.models import Network

BATCH = 500

OnBroken = Callable[[Sequence[str]], None]


class UnreadableImageError(OSError):
    """An image of the data set could not be read."""


def warn_of_broken(messages: Sequence[str]) -> None:
    """Names images that were left out, where nobody else is told of them."""
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
    """Top-1 accuracy in percent, in evaluation mode; every process takes a part of the split.

    Raises:
        UnreadableImageError: with ``strict_data``, an image could not be read. Without it, it is left out and ``on_broken``
            told of it; that none could be read is an error too.
    """
    metric = MulticlassAccuracy(num_classes=network.classes, average="micro", validate_args=False).to(device)
    read = torch.zeros((), dtype=torch.int64, device=device)
    for logits, labels in predictions(network, split, config, device, processes, on_broken):
        metric.update(logits.argmax(dim=1), labels)
        read += len(labels)
    if len(split) and not sum_over(read).item():
        raise UnreadableImageError(f"none of the {len(split)} images of a split could be read")
    return 100 * metric.compute().item()


@torch.no_grad()
def predictions(
    network: Network,
    split: Split,
    config: Config,
    device: torch.device,
    processes: Processes,
    on_broken: OnBroken = warn_of_broken,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits ``(B, C)`` float32 and labels ``(B,)`` of this process's part of a split; the network's mode is restored."""
    mode = network.training
    network.eval()
    positions = torch.arange(processes.rank, len(split), processes.count)
    with Loader(split, workers=config.workers, device=device) as loader:
        for batch in loader.batches(positions.split(BATCH)):
            if batch.broken:
                refuse_broken(batch.broken, config)
                on_broken(batch.broken)
            if len(batch.labels):
                images = formatted(batch.images, config)
                yield run(network, images, precision=config.precision, features=False).logits, batch.labels
    network.train(mode)


def refuse_broken(broken: Sequence[str], config: Config) -> None:
    """Stops at images that could not be read, if the run is strict about that."""
    if broken and config.strict_data:
        raise UnreadableImageError(f"strict_data: {'; '.join(broken)}")


def formatted(images: Tensor, config: Config) -> Tensor:
    """Images in the memory format of the run."""
    return images.contiguous(memory_format=torch.channels_last) if config.channels_last else images


def network_on(device: torch.device, model: nn.Module, classes: int, config: Config) -> Network:
    """The network of a model of ``classes``, in the memory format of the run."""
    network = Network(model, classes).to(device)
    return network.to(memory_format=torch.channels_last) if config.channels_last else network
