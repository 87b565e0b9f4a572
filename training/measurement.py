"""Evaluates a checkpoint on a split and prints the result."""

from pathlib import Path
from typing import Any

from rich.console import Console

from training.config import Config
from training.data import Split, Splits, without_path
from training.loop import distributed
from training.loop.evaluation import Quality, measure, network_on
from training.loop.trial import try_network
from training.messages import say
from training.progress import RunProgress
from training.run import load_data
from training.storage import checkpoint


def evaluate(config: Config, file: Path, console: Console) -> Quality:
    """Evaluates the model in ``file`` on the split that ``config`` names, and prints the result.

    Raises:
        FileNotFoundError: data or checkpoint is missing.
        OSError: an image could not be read, with ``strict_data``.
        ValueError: the file holds no model for this data, or the split does not exist.
    """
    processes, device = distributed.start(config.device)
    splits = load_data(config)
    split: Split | None = getattr(splits, config.split)
    if split is None:
        raise ValueError(f"split must exist, and no samples of {config.dataset} are held out, got {config.split!r}")
    trained = _load(config, splits, file)
    network = network_on(device, trained.model, splits.classes, config)
    try_network("student", trained.name, network, split, config, device)
    measured = measure(network, split, config, device, processes, RunProgress(console, config.split, 0).on_broken)
    if processes.first:
        _tell(measured, trained, config, console)
    return measured


def origin_of(file: str | None, dataset: str | None) -> dict[str, Any]:
    """The data that a checkpoint of this suite was trained on, as settings, unless ``dataset`` names another kind of data;
    no settings for any other file."""
    try:
        origin = None if file is None else checkpoint.read(Path(file).expanduser(), "evaluate").origin
    except (OSError, ValueError):
        # The later read reports what is wrong with the file.
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


def _tell(measured: Quality, trained: checkpoint.Trained, config: Config, console: Console) -> None:
    kind = f", {trained.kind}" if trained.kind else ""
    for note in trained.notes:
        say(console, f"left out: {note}")
    say(
        console,
        f"{trained.name}{kind}, on {measured.pictures} images of the {config.split} split of {config.dataset}: "
        f"top-1 {measured.top1:.2f} %, top-5 {measured.top5:.2f} %, calibration error {measured.calibration_error:.2f} %",
    )  # fmt: skip
