"""``hf:PATH_OR_NAME``: data sets in the layout of the Hugging Face hub, read by the ``datasets`` library.

PATH is a folder, for example of Parquet files, and is read without network access; NAME is a data set on the hub, which the
library downloads. Each row has an image and a label. Images of one small size are held in memory; others are read one by one
and cropped like those of ``imagenet``.
"""

import importlib
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.data.augmentations import ShiftAndFlip
from training.data.held_out import check_held_out, hold_out
from training.data.identity import Identity, encode, part_of_files
from training.data.image_folders import (
    IMAGE_SIZE,
    OWN,
    ImageFolderSplit,
    Transform,
    evaluation_transform,
    one_line,
    training_transform,
)
from training.data.parts import SEED, Classes, Part, make_splits, statistics
from training.data.pixels import FORMATS, decode_rgb
from training.data.recipes import PADDING, Augmenting
from training.data.splits import Splits

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("fine_label", "label", "labels")
TESTS = ("test", "validation", "valid", "val")
SMALL = 64
"""Maximum side length in pixels of images that are held in memory."""
HELD_OUT = 0.01
"""Default for images that are read one by one."""


@dataclass(frozen=True)
class Columns:
    """The names of the image and label columns; None selects a column automatically."""

    image: str | None = None
    label: str | None = None


class Rows(NamedTuple):
    """A published split: rows whose image is ``{"bytes": ..., "path": ...}`` in the column ``image``; labels ``(N,)``."""

    name: str
    rows: Any
    image: str
    labels: Tensor

    def open(self, row: int) -> BinaryIO:
        """Opens the image file."""
        stored = self.rows[row][self.image]
        return open(stored["path"], "rb") if stored["bytes"] is None else io.BytesIO(stored["bytes"])

    def names_and_sizes(self) -> list[tuple[bytes, int]]:
        """The row, label and name of each image, and its size in bytes, without reading the images."""
        column = self.rows.with_format("arrow")[:].column(self.image)
        names, sizes = [], []
        for chunk in column.chunks:
            names += chunk.field("path").to_pylist()
            sizes += importlib.import_module("pyarrow.compute").binary_length(chunk.field("bytes")).to_pylist()
        listed = []
        for row, (label, name, size) in enumerate(zip(self.labels.tolist(), names, sizes, strict=True)):
            # For images in separate files the library stores only the path.
            size = os.path.getsize(name) if size is None else size
            listed.append((encode(f"{row} {label} {os.path.basename(name or '')}"), size))
        return listed

    def told(self, row: int, error: Exception) -> str:
        """The message for an image that cannot be read."""
        return f"{self.name}, row {row}: {type(error).__name__}: {error}"


class Published(NamedTuple):
    """The labelled splits of a data set; ``validation`` is None if only ``train`` and ``test`` are labelled."""

    train: Rows
    validation: Rows | None
    test: Rows
    classes: Classes


class RowsSplit(ImageFolderSplit):
    """Images that are decoded from rows when they are loaded; other arguments as in ``ImageFolderSplit``.

    Args:
        rows: the rows that ``positions`` refers to.
        positions: ``(N,)`` int64.
    """

    def __init__(
        self, rows: Rows, positions: Tensor, size: int, evaluation: Transform, training: Transform | None = None
    ) -> None:
        self.rows, self.positions, self.labels = rows, positions, rows.labels[positions]
        self.size, self.evaluation, self.training = size, evaluation, training

    def subset(self, positions: Tensor) -> "RowsSplit":
        return RowsSplit(self.rows, self.positions[positions], self.size, self.evaluation, self.training)

    def _name(self, sample: int) -> str:
        return f"{self.rows.name}, row {int(self.positions[sample])}"

    def _read(self, sample: int) -> Image.Image:
        with self.rows.open(int(self.positions[sample])) as file:
            return decode_rgb(file)


def load_hugging_face(
    source: str,
    *,
    held_out: float | None = None,
    image_size: int | None = None,
    augmenting: Augmenting = OWN,
    columns: Columns | None = None,
) -> Splits:
    """The splits of the data set ``source``, a folder or a name on the hub.

    The test split is ``test``, or ``validation`` if ``test`` has no labels. A separate validation split is used unless
    ``held_out`` is given.

    Args:
        held_out: share of the training images to hold out for validation.
        image_size: side length in pixels; if given, images are read one by one, whatever their size.
        augmenting: augmentation of images that are read one by one.
        columns: names of the image and label columns.

    Raises:
        FileNotFoundError: there is no such data set.
        OSError: the hub cannot be reached.
        ValueError: an argument is wrong, ``datasets`` is not installed, or the data set has no images and labels.
    """
    check_held_out(held_out)
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    published = read_published(source, columns or Columns())
    if held_out is not None:
        published = published._replace(validation=None)
    if image_size is None and _is_small(published.train):
        return _in_memory(published, held_out)
    return _one_by_one(published, HELD_OUT if held_out is None else held_out, image_size or IMAGE_SIZE, augmenting)


def read_published(source: str, columns: Columns) -> Published:
    """The rows and classes of a data set; arguments and errors as in ``load_hugging_face``."""
    found = _load(source)
    if "train" not in found:
        raise ValueError(f"hf:{source} must have a split named train, got {', '.join(found)}")
    image = _column(source, found["train"].features, "image", columns.image, IMAGE_COLUMNS, "Image")
    label = _column(source, found["train"].features, "label", columns.label, LABEL_COLUMNS, "ClassLabel")
    classes = _classes(source, found["train"], label)
    labelled = {}
    for name in ("train", *TESTS):
        if name in found and label in found[name].features:
            rows = _rows(f"hf:{source} {name}", found[name], image, label, classes.names)
            if name == "train" or (rows.labels.numel() and int(rows.labels.min()) >= 0):
                labelled[name] = rows
    tests = [labelled[name] for name in TESTS if name in labelled]
    if not tests:
        raise ValueError(f"hf:{source} must have a labelled split named {' or '.join(TESTS)}, got {', '.join(found)}")
    for rows in (labelled["train"], *tests):
        _check_labels(rows, classes.count)
    return Published(labelled["train"], tests[1] if len(tests) > 1 else None, tests[0], classes)


def decode(rows: Rows) -> Part:
    """All images of ``rows``, which must have the same size; with one channel if they are all grey.

    Raises:
        ValueError: their sizes differ, or none of them can be read.
    """
    images: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    unreadable: dict[int, str] = {}
    for row in range(len(rows.labels)):
        try:
            with rows.open(row) as file:
                pixels = np.asarray(decode_rgb(file))
        # Decoders raise arbitrary exceptions on damaged files.
        except Exception as error:
            unreadable[row] = rows.told(row, error)
            continue
        if images is None:
            images = np.zeros((len(rows.labels), *pixels.shape), dtype=np.uint8)
        if pixels.shape != images.shape[1:]:
            (height, width), (other_height, other_width) = images.shape[1:3], pixels.shape[:2]
            raise ValueError(
                f"image_size must be given for {rows.name}, whose images have several sizes: {height} x {width}, "
                f"{other_height} x {other_width}"
            )
        images[row] = pixels
    if images is None:
        raise ValueError(f"{rows.name} must have an image that can be read, got none: {next(iter(unreadable.values()), '')}")
    grey = (images[..., 1:] == images[..., :1]).all()
    tensor = torch.from_numpy(images[..., :1] if grey else images).permute(0, 3, 1, 2).contiguous()
    return Part(tensor, rows.labels, unreadable)


def _in_memory(published: Published, held_out: float | None) -> Splits:
    parts = {name: decode(rows) for name, rows in published._asdict().items() if isinstance(rows, Rows)}
    train = parts["train"]
    channels = max(part.images.shape[1] for part in parts.values())
    parts = {
        name: part._replace(images=part.images.expand(-1, channels, -1, -1).contiguous()) for name, part in parts.items()
    }
    for name, part in parts.items():
        if part.images.shape[1:] != parts["train"].images.shape[1:]:
            raise ValueError(f"image_size must be given for a data set whose images in train and {name} differ in size")
    augmentation = ShiftAndFlip(train.images.shape[2] // PADDING, flip=True)
    return make_splits(
        parts["train"], parts["test"], published.classes, held_out, statistics(parts["train"].images), augmentation,
        parts.get("validation"),
    )  # fmt: skip


def _one_by_one(published: Published, held_out: float, size: int, augmenting: Augmenting) -> Splits:
    share = 0 if published.validation is not None else held_out
    kept, held = hold_out(len(published.train.labels), share, SEED)
    training, evaluation = training_transform(size, augmenting), evaluation_transform(size)
    train = RowsSplit(published.train, kept, size, evaluation, training)
    validation = RowsSplit(published.train, held, size, evaluation) if len(held) else None
    if published.validation is not None:
        validation = RowsSplit(published.validation, torch.arange(len(published.validation.labels)), size, evaluation)
    test = RowsSplit(published.test, torch.arange(len(published.test.labels)), size, evaluation)
    given = {"train": published.train, "validation": published.validation, "test": published.test}
    parts = {name: part_of_files(rows.names_and_sizes()) for name, rows in given.items() if rows is not None}
    described = f"{len(train)} of {parts['train'].samples} rows sha256:{parts['train'].contents}"
    transform = f"{described}, {one_line(training)}, {one_line(evaluation)}"
    identity = Identity(published.classes.names, parts)
    return Splits(train, validation, test, published.classes.count, 3, transform, identity)


def _load(source: str) -> Mapping[str, Any]:
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ValueError(f"dataset hf:{source} needs the datasets library: pip install datasets") from error
    datasets.disable_progress_bars()
    # It warns about every folder without a README.
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    try:
        folder = Path(source).expanduser()
    except RuntimeError as error:
        raise ValueError(f"dataset must be a folder or a name of the hub after hf:, got hf:{source}: {error}") from error
    if not folder.is_dir() and not HUB_NAME.fullmatch(source):
        raise FileNotFoundError(f"dataset must be a folder or a name of the hub after hf:, got hf:{source}: no such folder")
    try:
        return datasets.load_dataset(str(folder.resolve()) if folder.is_dir() else source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"hf:{source}: neither a folder of data files nor a hub data set ({error})") from error
    except OSError as error:
        raise OSError(f"hf:{source} is no folder, and the hub cannot be reached: {error}") from error
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"hf:{source} cannot be read: {error.__cause__ or error}") from error


def _column(
    source: str, features: Mapping[str, Any], kind: str, wanted: str | None, known: Sequence[str], feature: str
) -> str:
    """The column that is ``wanted``, or has a ``known`` name, or is the only one that declares itself as ``feature``."""
    if wanted is not None:
        found = [wanted] if wanted in features else []
    else:
        found = [name for name in known if name in features][:1]
        found = found or [name for name, each in features.items() if type(each).__name__ == feature]
    if len(found) != 1:
        raise ValueError(f"{kind}_column must name a column of hf:{source}, got {wanted!r}; it has {', '.join(features)}")
    return found[0]


def _classes(source: str, train: Any, label: str) -> Classes:
    names = getattr(train.features[label], "names", None)
    values = train.unique(label) if names is None else names
    if all(isinstance(value, str) for value in values):
        return Classes(len(values), tuple(sorted(values) if names is None else names))
    if not all(isinstance(value, int) for value in values):
        kind = train.features[label]
        raise ValueError(f"label_column must hold whole numbers or texts, got {kind} in {label} of hf:{source}")
    return Classes(max(values) + 1, ())


def _rows(name: str, rows: Any, image: str, label: str, class_names: tuple[str, ...]) -> Rows:
    datasets = importlib.import_module("datasets")
    try:
        rows = rows.cast_column(image, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"image_column must hold images, got {rows.features.get(image)} in {image} of {name}") from error
    values = rows.with_format("numpy", columns=[label])[:][label]
    if values.dtype.kind in "OUS":
        places = {text: place for place, text in enumerate(class_names)}
        values = np.array([places.get(str(text), len(class_names)) for text in values], dtype=np.int64)
    return Rows(name, rows.select_columns([image]), image, torch.from_numpy(values.astype(np.int64)))


def _check_labels(rows: Rows, classes: int) -> None:
    low, high = int(rows.labels.min()), int(rows.labels.max())
    if not 0 <= low <= high < classes:
        raise ValueError(f"labels of {rows.name} must be in [0, {classes}), got {low} to {high}")


def _is_small(rows: Rows) -> bool:
    """Whether the first readable image is small."""
    for row in range(len(rows.labels)):
        try:
            with rows.open(row) as file, Image.open(file, formats=FORMATS) as image:
                return max(image.size) <= SMALL
        except Exception:
            continue
    return True
