"""The folder of a run: the names of its files, its description and its result, and whether there is a run in it already."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import yaml

from training.config import Config
from training.storage import files

CONFIG = "config.yaml"
"""The settings, as ``--config`` takes them."""
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
"""A line an epoch."""
TENSORBOARD = "tensorboard"
LAST, PREVIOUS = "last.pt", "previous.pt"
"""While the run is unfinished: the state that it goes on from, and the one before."""
BEST = "best.pt"
"""The student of the best epoch on the validation split."""
CHECKPOINT, EXPORT, CURVES, RESULT = "checkpoint.pt", "student.safetensors", "curves.png", "result.json"
"""Of a finished run: the trained student, the same for other programs, its accuracies and loss terms, its result."""

PACKAGES = ("torchvision", "triton", "timm", "scikit-learn", "numpy", "torchmetrics", "jsonargparse", "datasets")


def refuse_used(config: Config) -> None:
    """Refuses a folder that has a run, unless it is to be resumed.

    Raises:
        ValueError: says how to go on.
    """
    used = [name for name in (RESULT, LAST, PREVIOUS) if (config.output / name).exists()]
    if used and not config.resume:
        raise ValueError(f"output {config.output} has a run already: go on with it by --resume, or choose another folder")


def read_result(folder: Path) -> dict[str, Any] | None:
    """What a finished run came to, or None for one that is not finished."""
    path = folder / RESULT
    return json.loads(path.read_text()) if path.exists() else None


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Marks the run as finished."""
    files.write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")


def write_config(config: Config) -> None:
    """Writes config.yaml."""
    of_one_call = ("resume", "evaluate", "split")
    settings = {name: value for name, value in config.as_dict().items() if name not in of_one_call}
    files.write_text(config.output / CONFIG, yaml.safe_dump(settings, sort_keys=False))


def write_environment(folder: Path) -> None:
    """Writes environment.json: the machine, the versions, the revision of this suite."""
    files.write_text(folder / ENVIRONMENT, json.dumps(_environment(), indent=2) + "\n")


def _environment() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        **{name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "threads": torch.get_num_threads(),
        "git_revision": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the repository of this file, or None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
