"""The folder of a run: config.yaml, environment.json, result.json, and whether there is a run in it already."""

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
from training.storage.resume import LAST, PREVIOUS

RESULT = "result.json"
PACKAGES = ("torchvision", "triton", "timm", "scikit-learn", "numpy", "torchmetrics", "jsonargparse")


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


def write_description(config: Config) -> None:
    """Writes config.yaml, which ``--config`` takes, and environment.json."""
    settings = {name: value for name, value in config.as_dict().items() if name != "resume"}
    files.write_text(config.output / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    files.write_text(config.output / "environment.json", json.dumps(_environment(), indent=2) + "\n")


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
