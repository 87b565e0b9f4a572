"""The data sets, by name."""

from collections.abc import Callable
from pathlib import Path

from training.data.digits100 import load_digits100
from training.data.fashion100 import load_fashion100
from training.data.identity import Identity
from training.data.image_folders import load_folder, load_imagenet
from training.data.splits import Batch, Split, Splits, View
from training.data.torchvision_sets import load_cifar10, load_cifar100, load_fashion_mnist

DATASETS: dict[str, Callable[..., Splits]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "digits100": load_digits100,
    "fashion100": load_fashion100,
    "fashion_mnist": load_fashion_mnist,
    "imagenet": load_imagenet,
}
"""Each takes the data folder and ``held_out``, ``imagenet`` also ``image_size``, and returns the splits."""

FOLDER = "folder:"


def check_name(name: str) -> None:
    """Refuses what is neither a name of ``DATASETS`` nor ``folder:PATH``.

    Raises:
        ValueError: names dataset.
    """
    if name not in DATASETS and not (name.startswith(FOLDER) and name != FOLDER):
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, or folder:PATH, got {name!r}")


def without_path(name: str) -> str:
    """What kind of data set it is: of ``folder:PATH``, ``folder:``; another name as it is."""
    return FOLDER if name.startswith(FOLDER) else name


def load_splits(name: str, folder: Path, *, held_out: float | None = None, image_size: int | None = None) -> Splits:
    """The splits of a data set.

    Args:
        name: one of ``DATASETS``, or ``folder:PATH``.
        folder: that has the files of the named data sets.
        held_out: share of the training samples, or of the originals that they are made of, that is held out for validation;
            0 for none, by default the data set's own share.
        image_size: pixels a side, of ``imagenet`` and ``folder:PATH`` only; 224 by default.

    Raises:
        FileNotFoundError: files are missing; the message says what goes where.
        ValueError: names the argument that is wrong, or says which file is damaged.
    """
    check_name(name)
    sizes = {} if image_size is None else {"image_size": image_size}
    if name.startswith(FOLDER):
        return load_folder(_expanded(name.removeprefix(FOLDER)), held_out=held_out, **sizes)
    if sizes and name != "imagenet":
        raise ValueError(
            f"image_size must be left out for dataset {name!r}, whose images have their own size, got {image_size}"
        )
    return DATASETS[name](folder, held_out=held_out, **sizes)


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"dataset must be a folder, got {path}: {error}") from error


__all__ = ["DATASETS", "Batch", "Identity", "Split", "Splits", "View", "check_name", "load_splits", "without_path"]
