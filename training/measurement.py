"""Measuring a checkpoint on a split, and saying what it reaches."""

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


def _tell(measured: Quality, trained: checkpoint.Trained, config: Config, console: Console) -> None:
    kind = f", {trained.kind}" if trained.kind else ""
    for note in trained.notes:
        say(console, f"left out: {note}")
    say(
        console,
        f"{trained.name}{kind}, on {measured.pictures} pictures of {config.split} of {config.dataset}: "
        f"top-1 {measured.top1:.2f} %, top-5 {measured.top5:.2f} %, calibration error {measured.calibration_error:.2f} %",
    )  # fmt: skip
