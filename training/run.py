"""One run from its settings to its folder: config.yaml, environment.json, metrics.jsonl, checkpoint.pt."""

import dataclasses
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import torch
import yaml
from rich.console import Console
from torch import nn

from training import checkpoint, engine
from training.config import Config
from training.data import DATASETS, Splits
from training.methods import METHODS
from training.models import MODELS
from training.progress import RunProgress


def run(config: Config, console: Console) -> list[engine.EpochRecord]:
    """Trains what ``config`` says and returns the record of every epoch.

    Raises:
        FileNotFoundError: data or the teacher's checkpoint is missing.
        ValueError: the teacher's checkpoint does not fit.
        NonFiniteLossError: training diverged.
    """
    splits = DATASETS[config.dataset](config.data)
    teacher = load_teacher(config, splits, console)
    channels = splits.train.images.shape[1]
    student = engine.build(lambda: MODELS[config.student](channels, splits.classes), config.seed)
    config.output.mkdir(parents=True, exist_ok=True)
    write_description(config)
    recipe = engine.Recipe(
        config.epochs, config.batch_size, config.learning_rate, config.momentum, config.weight_decay, config.seed
    )
    metrics = config.output / "metrics.jsonl"
    title = f"{config.method} {config.student} seed {config.seed}"
    with RunProgress(console, title, config.epochs) as progress, metrics.open("w") as file:

        def on_epoch(record: engine.EpochRecord) -> None:
            file.write(json.dumps(record.as_dict()) + "\n")
            file.flush()
            progress.on_epoch(record)

        records = engine.train(student, teacher, METHODS[config.method](), splits, recipe, progress.on_step, on_epoch)
    checkpoint.save(
        config.output / "checkpoint.pt", student, name=config.student, dataset=config.dataset, channels=channels,
        classes=splits.classes, test_accuracy=records[-1].test_accuracy,
    )  # fmt: skip
    best = best_epoch(records)
    console.print(
        f"{title}: test accuracy {records[-1].test_accuracy:.2f} % after the last epoch, {best.test_accuracy:.2f} % after "
        f"epoch {best.epoch}, the best on the validation split",
        soft_wrap=True,
    )
    return records


def load_teacher(config: Config, splits: Splits, console: Console) -> nn.Module | None:
    """The frozen teacher, after its accuracy was measured, compared with its checkpoint's and printed.

    Raises:
        ValueError: it is another model than ``config.teacher``, has other classes than the data set, or is not as accurate
            as when it was saved: a different data set, or damaged weights.
    """
    if config.teacher_checkpoint is None:
        return None
    trained = checkpoint.load(config.teacher_checkpoint, dataset=config.dataset)
    if config.teacher is not None and trained.name != config.teacher:
        raise ValueError(
            f"teacher_checkpoint {config.teacher_checkpoint} holds {trained.name!r}, teacher is {config.teacher!r}"
        )
    if trained.classes != splits.classes:
        raise ValueError(
            f"teacher_checkpoint {config.teacher_checkpoint} has {trained.classes} classes, "
            f"{config.dataset} has {splits.classes}"
        )
    teacher = engine.freeze(trained.model)
    measured = engine.accuracy(teacher, splits.test, splits.classes)
    console.print(f"teacher {trained.name}: test accuracy {measured:.2f} %", soft_wrap=True)
    if abs(measured - trained.test_accuracy) > 0.5:
        raise ValueError(
            f"teacher_checkpoint {config.teacher_checkpoint} reached {trained.test_accuracy:.2f} % when it was saved and "
            f"reaches {measured:.2f} % now: the data is not the same"
        )
    return teacher


def best_epoch(records: list[engine.EpochRecord]) -> engine.EpochRecord:
    """The epoch of the highest validation accuracy, the first of equals."""
    return max(records, key=lambda record: record.validation_accuracy)


def write_description(config: Config) -> None:
    """Writes config.yaml, which ``--config`` takes, and environment.json."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(config).items()}
    (config.output / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) for name in ("torchvision", "scikit-learn", "numpy")},
        "threads": torch.get_num_threads(),
        "git_revision": git_revision(),
    }
    (config.output / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")


def git_revision() -> str | None:
    """The commit this file belongs to, or None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
