"""What a checkpoint comes to on a split: accuracies and calibration."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from training.config import Config
from training.data import Split, Splits, without_path
from training.loop import distributed
from training.loop.distributed import Processes
from training.loop.evaluation import OnBroken, UnreadableImageError, network_on, predictions
from training.loop.trial import try_network
from training.messages import say
from training.models import Network
from training.progress import RunProgress
from training.run import load_data
from training.storage import checkpoint

BINS = 15
"""Of the calibration error."""


class Measured(NamedTuple):
    """What a model comes to on a split, in percent; ``pictures`` are those that could be read.

    ``calibration_error`` is the expected calibration error: by 15 equal bins of the largest probability, the mean difference
    between that probability and the accuracy.
    """

    top1: float
    top5: float
    calibration_error: float
    pictures: int


def evaluate(config: Config, file: Path, console: Console) -> Measured:
    """Measures the model in ``file`` on the split that ``config`` names, and prints what it comes to.

    Raises:
        FileNotFoundError: data or checkpoint is missing.
        OSError: an image could not be read, with ``strict_data``.
        ValueError: the file holds no model for this data, or there is no such split.
    """
    processes, device = distributed.start(config.device)
    splits = load_data(config)
    split: Split | None = getattr(splits, config.split)
    if split is None:
        raise ValueError(f"split must be one that there is: nothing of {config.dataset} is held out, got {config.split!r}")
    trained = _load(config, splits, file)
    network = network_on(device, trained.model, splits.classes, config)
    try_network("student", trained.name, network, split, config, device)
    measured = measure(network, split, config, device, processes, RunProgress(console, config.split, 0).on_broken)
    if processes.first:
        _tell(measured, trained, config, console)
    return measured


def measure(
    network: Network, split: Split, config: Config, device: torch.device, processes: Processes, on_broken: OnBroken
) -> Measured:
    """What a network comes to on a split, of which every process takes a part.

    Raises:
        UnreadableImageError: none of its pictures could be read, or one with ``strict_data``.
    """
    classes = network.classes
    metrics = MetricCollection(
        {
            "top1": MulticlassAccuracy(classes, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro", validate_args=False),
            "error": MulticlassCalibrationError(classes, n_bins=BINS, validate_args=False),
        },
        compute_groups=False,
    ).to(device)
    count = 0
    for logits, labels in predictions(network, split, config, device, processes, on_broken):
        metrics.update(logits.softmax(dim=1), labels)
        count += len(labels)
    pictures = sum(distributed.gather(count))
    if not pictures:
        raise UnreadableImageError(f"none of the {len(split)} images of {config.split} could be read")
    percent = {name: 100 * value.item() for name, value in metrics.compute().items()}
    return Measured(percent["top1"], percent["top5"], percent["error"], pictures)


def origin_of(file: str | None, dataset: str | None) -> dict[str, Any]:
    """The data that a checkpoint of this suite was trained on, as settings, if ``dataset`` is no other kind of data; of any
    other file, nothing."""
    try:
        origin = None if file is None else checkpoint.read(Path(file).expanduser(), "evaluate").origin
    except (OSError, ValueError):
        # Whoever reads it for good says what is wrong with it.
        origin = None
    if origin is None or (dataset is not None and without_path(dataset) != without_path(origin.dataset)):
        return {}
    return {"dataset": origin.dataset, "image_size": origin.image_size}


def _load(config: Config, splits: Splits, file: Path) -> checkpoint.Trained:
    saved = checkpoint.read(file, "evaluate")
    trained = checkpoint.restore(
        saved, file, dataset=config.dataset, class_names=splits.identity.class_names,
        name=None if saved.origin is not None else config.student, channels=splits.channels, classes=splits.classes,
        setting="evaluate",
    )  # fmt: skip
    if trained.classes != splits.classes:
        raise ValueError(f"evaluate {file} has {trained.classes} classes, {config.dataset} has {splits.classes}")
    return trained


def _tell(measured: Measured, trained: checkpoint.Trained, config: Config, console: Console) -> None:
    kind = f", {trained.kind}" if trained.kind else ""
    for note in trained.notes:
        say(console, f"left out: {note}")
    say(
        console,
        f"{trained.name}{kind}, on {measured.pictures} pictures of {config.split} of {config.dataset}: "
        f"top-1 {measured.top1:.2f} %, top-5 {measured.top5:.2f} %, calibration error {measured.calibration_error:.2f} %",
    )  # fmt: skip
