"""``fashion_mnist``, ``cifar10`` and ``cifar100`` from files on disk, read by torchvision; nothing is downloaded.

A random tenth of the training images, always the same, is held out for validation unless ``held_out`` says otherwise.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import datasets

from training.data.augmentations import ShiftAndFlip
from training.data.held_out import check_held_out, hold_out
from training.data.identity import Identity, part_of_tensors
from training.data.splits import Normalization, Splits, TensorSplit, describe

HELD_OUT = 0.1
SEED = 20260202

FASHION = Normalization((0.2860,), (0.3530,))
CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))

FASHION_CLASSES = tuple(datasets.FashionMNIST.classes)


class Part(NamedTuple):
    """Images ``(N, channels, height, width)`` uint8 and labels ``(N,)`` int64 of the training or the test files."""

    images: Tensor
    labels: Tensor


def load_fashion_mnist(folder: Path, *, held_out: float | None = None) -> Splits:
    """Fashion-MNIST, ``(N, 1, 28, 28)``, 10 classes; a view shifts by up to 2 pixels and flips.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: held_out is not in [0, 1), a file is damaged, or images and labels do not belong together.
    """
    check_held_out(held_out)
    train, test = read_fashion_mnist(folder)
    return _splits(train, test, FASHION_CLASSES, held_out, FASHION, ShiftAndFlip(2, flip=True))


def load_cifar10(folder: Path, *, held_out: float | None = None) -> Splits:
    """CIFAR-10, ``(N, 3, 32, 32)``, 10 classes; a view is a crop with 4 pixels around it, flipped or not.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: held_out is not in [0, 1), or images and labels do not belong together.
    """
    check_held_out(held_out)
    advice = (
        f"cifar10: put the files data_batch_1 to data_batch_5, test_batch and batches.meta of the Python version into "
        f"{folder / datasets.CIFAR10.base_folder}"
    )
    return _splits(*_read_cifar(datasets.CIFAR10, folder, advice, 10), held_out, CIFAR10, ShiftAndFlip(4, flip=True))


def load_cifar100(folder: Path, *, held_out: float | None = None) -> Splits:
    """CIFAR-100, ``(N, 3, 32, 32)``, 100 classes; a view is a crop with 4 pixels around it, flipped or not.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: held_out is not in [0, 1), or images and labels do not belong together.
    """
    check_held_out(held_out)
    advice = (
        f"cifar100: put the files train, test and meta of the Python version into {folder / datasets.CIFAR100.base_folder}"
    )
    return _splits(*_read_cifar(datasets.CIFAR100, folder, advice, 100), held_out, CIFAR100, ShiftAndFlip(4, flip=True))


def read_fashion_mnist(folder: Path) -> tuple[Part, Part]:
    """The training and test files of Fashion-MNIST.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: a file is damaged, or images and labels do not belong together.
    """
    parts = _open(
        lambda train: datasets.FashionMNIST(str(folder), train=train, download=False),
        f"Fashion-MNIST: put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
        f"t10k-labels-idx1-ubyte into {folder / 'FashionMNIST' / 'raw'}",
    )
    train, test = (Part(part.data[:, None], part.targets) for part in parts)
    return _checked("training", train, 10), _checked("test", test, 10)


def _read_cifar(dataset: Any, folder: Path, advice: str, classes: int) -> tuple[Part, Part, tuple[str, ...]]:
    parts = _open(lambda train: dataset(str(folder), train=train, download=False), advice)
    train, test = (
        Part(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)) for part in parts
    )
    return _checked("training", train, classes), _checked("test", test, classes), tuple(parts[0].classes)


def _open(make: Callable[[bool], Any], advice: str) -> tuple[Any, Any]:
    try:
        return make(True), make(False)
    except RuntimeError as error:
        raise FileNotFoundError(f"{advice} ({error})") from error
    except (AssertionError, ValueError) as error:
        raise ValueError(f"a file is damaged; {advice} ({error})") from error


def _checked(name: str, part: Part, classes: int) -> Part:
    images, labels = part
    if len(images) != len(labels):
        raise ValueError(f"{name} files must have a label an image, got {len(images)} images and {len(labels)} labels")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"{name} labels must be in [0, {classes}), got {int(labels.min())} to {int(labels.max())}")
    return part


def _splits(
    train: Part,
    test: Part,
    class_names: tuple[str, ...],
    held_out: float | None,
    normalization: Normalization,
    augmentation: ShiftAndFlip,
) -> Splits:
    kept, held = hold_out(len(train.labels), HELD_OUT if held_out is None else held_out, SEED)
    training = TensorSplit(train.images[kept], train.labels[kept], normalization, augmentation)
    validation = TensorSplit(train.images[held], train.labels[held], normalization) if len(held) else None
    channels = train.images.shape[1]
    identity = Identity(class_names, {"train": part_of_tensors(*train), "test": part_of_tensors(*test)})
    described = describe(training)
    return Splits(training, validation, TensorSplit(*test, normalization), len(class_names), channels, described, identity)
