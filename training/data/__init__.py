"""The data sets, by name."""

from collections.abc import Callable
from pathlib import Path

from training.data.digits100 import load_digits100
from training.data.fashion100 import load_fashion100
from training.data.held_out import balanced
from training.data.hugging_face import Columns, load_hugging_face
from training.data.identity import Identity
from training.data.image_folders import OWN, ImageFolderSplit, load_folder, load_imagenet
from training.data.mixing import Mixing
from training.data.recipes import Augmenting, of_images
from training.data.splits import Batch, Split, Splits, TensorSplit, View, describe
from training.data.torchvision_sets import load_cifar10, load_cifar100, load_fashion_mnist

DATASETS: dict[str, Callable[..., Splits]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "digits100": load_digits100,
    "fashion100": load_fashion100,
    "fashion_mnist": load_fashion_mnist,
    "imagenet": load_imagenet,
}
"""Each takes the data folder and ``held_out`` and returns the splits; ``imagenet`` also takes ``image_size`` and
``augmenting``, ``cifar10`` and ``cifar100`` take ``columns``."""

FOLDER, HUGGING_FACE = "folder:", "hf:"
IN_PARQUET = ("cifar10", "cifar100")


def check_name(name: str) -> None:
    """Refuses what is neither a name of ``DATASETS`` nor ``folder:PATH`` nor ``hf:PATH_OR_NAME``.

    Raises:
        ValueError: names dataset.
    """
    if name in DATASETS or any(name.startswith(prefix) and name != prefix for prefix in (FOLDER, HUGGING_FACE)):
        return
    raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, folder:PATH or hf:PATH_OR_NAME, got {name!r}")


def without_path(name: str) -> str:
    """The kind of data set: ``folder:`` for ``folder:PATH``, ``hf:`` for ``hf:PATH_OR_NAME``, otherwise the name itself."""
    return next((prefix for prefix in (FOLDER, HUGGING_FACE) if name.startswith(prefix)), name)


def load_splits(
    name: str,
    folder: Path,
    *,
    held_out: float | None = None,
    image_size: int | None = None,
    columns: Columns | None = None,
    augmenting: Augmenting = OWN,
    train_per_class: int | None = None,
) -> Splits:
    """The splits of a data set.

    Args:
        name: one of ``DATASETS``, ``folder:PATH`` or ``hf:PATH_OR_NAME``.
        folder: the folder with the files of the named data sets.
        held_out: share of the training samples, or of the originals that they are made of, to hold out for validation;
            0 for none, by default the data set's own share.
        image_size: side length in pixels, for ``imagenet``, ``folder:PATH`` and ``hf:PATH_OR_NAME`` only; 224 by default.
        columns: image and label columns, for ``hf:PATH_OR_NAME`` and CIFAR in Parquet files only.
        augmenting: augmentation of the training images.
        train_per_class: training samples per class, the first in the order of the split; None for all.

    Raises:
        FileNotFoundError: files are missing; the message says what goes where.
        ValueError: names the argument that is wrong, or says which file is damaged.
    """
    check_name(name)
    splits = _load(name, folder, held_out, image_size, columns, augmenting)
    train = splits.train
    assert isinstance(train, TensorSplit | ImageFolderSplit)
    if train_per_class is not None:
        train = train.subset(balanced(train.labels, train_per_class, splits.classes))
        splits = splits._replace(train=train, transform=f"{splits.transform}, {train_per_class} of each class")
    if isinstance(train, TensorSplit) and augmenting != OWN:
        train.augmentation = of_images(augmenting, train)
        splits = splits._replace(transform=describe(train))
    return splits


def _load(
    name: str,
    folder: Path,
    held_out: float | None,
    image_size: int | None,
    columns: Columns | None,
    augmenting: Augmenting,
) -> Splits:
    sizes = {} if image_size is None else {"image_size": image_size}
    if name.startswith(HUGGING_FACE):
        source = name.removeprefix(HUGGING_FACE)
        return load_hugging_face(source, held_out=held_out, augmenting=augmenting, columns=columns, **sizes)
    if columns is not None and name not in IN_PARQUET:
        raise ValueError(f"image_column and label_column must be left out for dataset {name!r}, which has no columns")
    if name.startswith(FOLDER):
        place = _expanded(name.removeprefix(FOLDER))
        return load_folder(place, held_out=held_out, augmenting=augmenting, **sizes)
    if name == "imagenet":
        return load_imagenet(folder, held_out=held_out, augmenting=augmenting, **sizes)
    if sizes:
        raise ValueError(
            f"image_size must be left out for dataset {name!r}, whose images have their own size, got {image_size}"
        )
    return DATASETS[name](folder, held_out=held_out, **({"columns": columns} if name in IN_PARQUET else {}))


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"dataset must be a folder, got {path}: {error}") from error


__all__ = [
    "DATASETS", "Augmenting", "Batch", "Columns", "Identity", "Mixing", "Split", "Splits", "View", "check_name",
    "load_splits", "without_path",
]  # fmt: skip
