"""The accuracy of a network on a split, shared among the processes; images and networks in the format of a run."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from training.config import Config
from training.data import Split
from training.data.loader import Loader
from training.loop.distributed import Processes
from training.loop.learner import run
from training.models import Network

BATCH = 500


class UnreadableImageError(OSError):
    """An image of the data set could not be read."""


def accuracy(network: Network, split: Split, config: Config, device: torch.device, processes: Processes) -> float:
    """Top-1 accuracy in percent, in evaluation mode; every process takes a part of the split.

    Raises:
        UnreadableImageError: with ``strict_data``, an image could not be read. Without it, it is left out.
    """
    metric = MulticlassAccuracy(num_classes=network.classes, average="micro", validate_args=False).to(device)
    for logits, labels in predictions(network, split, config, device, processes):
        metric.update(logits.argmax(dim=1), labels)
    return 100 * metric.compute().item()


@torch.no_grad()
def predictions(
    network: Network, split: Split, config: Config, device: torch.device, processes: Processes
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits ``(B, C)`` float32 and labels ``(B,)`` of this process's part of a split; the network's mode is restored."""
    mode = network.training
    network.eval()
    positions = torch.arange(processes.rank, len(split), processes.count)
    with Loader(split, workers=config.workers, device=device) as loader:
        for batch in loader.batches(positions.split(BATCH)):
            refuse_broken(batch.broken, config)
            if len(batch.labels):
                images = formatted(batch.images, config)
                yield run(network, images, precision=config.precision, features=False).logits, batch.labels
    network.train(mode)


def refuse_broken(broken: tuple[str, ...], config: Config) -> None:
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
