"""``fashion_mnist``, ``cifar10`` and ``cifar100`` from files on disk, read by torchvision; nothing is downloaded.

CIFAR is also read from the Parquet files of the Hugging Face hub, if the folder of its Python version is missing. By default
a fixed random tenth of the training images is held out for validation; ``held_out`` sets another share.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets

from training.data.augmentations import ShiftAndFlip
from training.data.held_out import check_held_out
from training.data.hugging_face import Columns, decode, read_published
from training.data.parts import Classes, Part, checked, make_splits
from training.data.splits import Normalization, Splits

FASHION = Normalization((0.2860,), (0.3530,))
CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))

FASHION_CLASSES = tuple(datasets.FashionMNIST.classes)


def load_fashion_mnist(folder: Path, *, held_out: float | None = None) -> Splits:
    """Fashion-MNIST, ``(N, 1, 28, 28)``, 10 classes; a view shifts by up to 2 pixels and flips.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: held_out is not in [0, 1), a file is damaged or holds more than tensors, or images and labels do not
            match.
    """
    check_held_out(held_out)
    classes = Classes(10, FASHION_CLASSES)
    return make_splits(*read_fashion_mnist(folder), classes, held_out, FASHION, ShiftAndFlip(2, flip=True))


def load_cifar10(folder: Path, *, held_out: float | None = None, columns: Columns | None = None) -> Splits:
    """CIFAR-10, ``(N, 3, 32, 32)``, 10 classes; a view is a random crop after padding by 4 pixels, with a random flip.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: held_out is not in [0, 1), or images and labels do not match.
    """
    files = "data_batch_1 to data_batch_5, test_batch and batches.meta"
    return _load_cifar("cifar10", datasets.CIFAR10, files, folder, 10, held_out, columns, CIFAR10)


def load_cifar100(folder: Path, *, held_out: float | None = None, columns: Columns | None = None) -> Splits:
    """CIFAR-100, ``(N, 3, 32, 32)``, 100 classes; a view is a random crop after padding by 4 pixels, with a random flip.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: held_out is not in [0, 1), or images and labels do not match.
    """
    files = "train, test and meta"
    return _load_cifar("cifar100", datasets.CIFAR100, files, folder, 100, held_out, columns, CIFAR100)


def read_fashion_mnist(folder: Path) -> tuple[Part, Part]:
    """The training and test files of Fashion-MNIST.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: a file is damaged or holds more than tensors, or images and labels do not match.
    """
    here = folder / "FashionMNIST"
    advice = (
        "Fashion-MNIST: put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
        f"t10k-labels-idx1-ubyte into {here / 'raw'}"
    )
    try:
        parts = _open(lambda train: datasets.FashionMNIST(str(folder), train=train, download=False), advice)
    except pickle.UnpicklingError:
        # PyTorch's message advises loading the file unsafely. torchvision prefers it to the published files.
        old = here / "processed"
        raise ValueError(f"{advice}, and remove {old}: a file in it is damaged or holds more than tensors") from None
    train, test = (Part(part.data[:, None], part.targets) for part in parts)
    return checked("training", train, 10), checked("test", test, 10)


def _load_cifar(
    name: str,
    dataset: Any,
    files: str,
    folder: Path,
    classes: int,
    held_out: float | None,
    columns: Columns | None,
    normalization: Normalization,
) -> Splits:
    check_held_out(held_out)
    parquet = None if (folder / dataset.base_folder).is_dir() else _parquet_folder(folder, name)
    if parquet is None and columns is not None:
        raise ValueError(f"{name} must be Parquet files for image_column and label_column, got none in {folder}")
    if parquet is not None:
        train, test, named = _read_parquet(parquet, name, classes, columns or Columns())
    else:
        advice = (
            f"{name}: put the files {files} of the Python version into {folder / dataset.base_folder}, "
            f"or the Parquet files of its repository on the Hugging Face hub into {folder}"
        )
        parts = _open(lambda train: dataset(str(folder), train=train, download=False), advice)
        train, test = (
            Part(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)) for part in parts
        )
        named = Classes(classes, tuple(parts[0].classes))
    parts = checked("training", train, classes), checked("test", test, classes)
    return make_splits(*parts, named, held_out, normalization, ShiftAndFlip(4, flip=True))


def _parquet_folder(folder: Path, name: str) -> Path | None:
    """The folder of the Parquet files: ``folder``, or one of the subfolders that hub repositories use."""
    for candidate in (folder, folder / name, folder / "data", folder / "plain_text"):
        if any(candidate.glob("*.parquet")):
            return candidate
    return None


def _read_parquet(folder: Path, name: str, classes: int, columns: Columns) -> tuple[Part, Part, Classes]:
    published = read_published(str(folder), columns)
    train, test = (decode(rows) for rows in (published.train, published.test))
    for part in (train, test):
        if part.images.shape[1:] != (3, 32, 32):
            raise ValueError(f"{name} must have images of 32 x 32 in colour, got {tuple(part.images.shape[1:])} in {folder}")
    if published.classes.count != classes:
        raise ValueError(f"{name} must have {classes} classes, got {published.classes.count} in {folder}")
    return train, test, published.classes


def _open(make: Callable[[bool], Any], advice: str) -> tuple[Any, Any]:
    try:
        return make(True), make(False)
    except RuntimeError as error:
        raise FileNotFoundError(f"{advice} ({error})") from error
    except (AssertionError, ValueError) as error:
        raise ValueError(f"a file is damaged; {advice} ({error})") from error
