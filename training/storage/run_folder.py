"""The folder of a run: its file names, its description and its result, and whether it already holds a run."""

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
"""The settings, as ``--config`` reads them."""
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
"""One line per epoch."""
TENSORBOARD = "tensorboard"
LAST, PREVIOUS = "last.pt", "previous.pt"
"""While the run is unfinished: the state from which it resumes, and the one before."""
BEST = "best.pt"
"""The student of the best epoch on the validation split."""
CHECKPOINT, EXPORT, CURVES, RESULT = "checkpoint.pt", "student.safetensors", "curves.png", "result.json"
"""Of a finished run: the trained student, the same for other programs, plots of accuracies and loss terms, the result."""

PACKAGES = ("torchvision", "triton", "timm", "scikit-learn", "numpy", "torchmetrics", "jsonargparse", "datasets")


def refuse_used(config: Config) -> None:
    """Refuses a folder that already holds a run, unless the run is to be resumed.

    Raises:
        ValueError: says how to continue.
    """
    used = [name for name in (RESULT, LAST, PREVIOUS) if (config.output / name).exists()]
    if used and not config.resume:
        raise ValueError(f"output {config.output} already holds a run: continue it with --resume, or choose another folder")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, or None if it is not finished."""
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
    """The output of git for this file's repository, or None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
