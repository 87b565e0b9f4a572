"""``fashion_mnist`` and ``cifar100`` from files on disk, read by torchvision; nothing is downloaded.

The last tenth of the training images, in a fixed random order, is held out for validation.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from training.data.splits import Augmentation, Split, Splits, shift_each

HELD_OUT = 0.1
SEED = 20260202

CIFAR100_MEAN, CIFAR100_DEVIATION = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
FASHION_MEAN, FASHION_DEVIATION = (0.2860,), (0.3530,)


def load_fashion_mnist(folder: Path) -> Splits:
    """Fashion-MNIST, ``(N, 1, 28, 28)``, 10 classes.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: a file is damaged, or images and labels do not belong together.
    """
    train, test = _open(
        lambda part: datasets.FashionMNIST(str(folder), train=part, download=False),
        f"fashion_mnist: put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
        f"t10k-labels-idx1-ubyte into {folder / 'FashionMNIST' / 'raw'}",
    )
    return _splits(
        _normalize(train.data[:, None], FASHION_MEAN, FASHION_DEVIATION), train.targets,
        _normalize(test.data[:, None], FASHION_MEAN, FASHION_DEVIATION), test.targets, 10, _shift_and_flip(2),
    )  # fmt: skip


def load_cifar100(folder: Path) -> Splits:
    """CIFAR-100, ``(N, 3, 32, 32)``, 100 classes.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
    """
    train, test = _open(
        lambda part: datasets.CIFAR100(str(folder), train=part, download=False),
        f"cifar100: put the files train, test and meta of the Python version into {folder / 'cifar-100-python'}",
    )
    images = [
        _normalize(torch.from_numpy(part.data).permute(0, 3, 1, 2), CIFAR100_MEAN, CIFAR100_DEVIATION)
        for part in (train, test)
    ]
    return _splits(images[0], torch.tensor(train.targets), images[1], torch.tensor(test.targets), 100, _shift_and_flip(4))


def _open(make: Callable[[bool], Any], advice: str) -> tuple[Any, Any]:
    try:
        return make(True), make(False)
    except RuntimeError as error:
        raise FileNotFoundError(f"{advice} ({error})") from error
    except (AssertionError, ValueError) as error:
        raise ValueError(f"a file is damaged; {advice} ({error})") from error


def _normalize(images: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Images ``(N, channels, height, width)`` uint8 as float32 of mean 0 and deviation 1 a channel."""
    shape = (-1, 1, 1)
    return (images.float() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(deviation).view(shape)


def _splits(
    images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor, classes: int, augment: Augmentation
) -> Splits:
    for name, part, part_labels in (("training", images, labels), ("test", test_images, test_labels)):
        if len(part) != len(part_labels):
            raise ValueError(
                f"{name} files must have a label an image, got {len(part)} images and {len(part_labels)} labels"
            )
        if not 0 <= int(part_labels.min()) <= int(part_labels.max()) < classes:
            raise ValueError(
                f"{name} labels must be in [0, {classes}), got {int(part_labels.min())} to {int(part_labels.max())}"
            )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    validation, train = order[: int(HELD_OUT * len(order))], order[int(HELD_OUT * len(order)) :]
    return Splits(
        Split(images[train], labels[train]),
        Split(images[validation], labels[validation]),
        Split(test_images, test_labels),
        classes,
        augment,
    )


def _shift_and_flip(largest: int) -> Augmentation:
    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        flipped = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        return shift_each(torch.where(flipped, images.flip(3), images), largest, generator)

    return augment
