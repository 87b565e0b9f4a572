"""Trained models on disk: written whole or not at all, read without executing anything."""

import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.models import MODELS

FORMAT = 1
FIELDS = {"format", "name", "dataset", "channels", "classes", "test_accuracy", "state"}


class Trained(NamedTuple):
    """A trained model and what it was trained on."""

    model: nn.Module
    name: str
    dataset: str
    classes: int
    test_accuracy: float


def save(
    path: Path, model: nn.Module, *, name: str, dataset: str, channels: int, classes: int, test_accuracy: float
) -> None:
    """Writes a checkpoint atomically: to a temporary file, flushed to the disk, then renamed over ``path``."""
    content = {
        "format": FORMAT,
        "name": name,
        "dataset": dataset,
        "channels": channels,
        "classes": classes,
        "test_accuracy": test_accuracy,
        "state": model.state_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened by name, because a file of tempfile's is readable by its owner alone, and the checkpoint would be too.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path, *, dataset: str) -> Trained:
    """Reads a model that was trained on ``dataset``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no checkpoint of this project, or its model was trained on other data.
    """
    if not path.is_file():
        raise FileNotFoundError(f"teacher_checkpoint must be a file, got {path}; train one with --method ce")
    content = _read(path)
    if content["dataset"] != dataset:
        raise ValueError(f"teacher_checkpoint {path} was trained on {content['dataset']!r}, the data set is {dataset!r}")
    if content["name"] not in MODELS:
        raise ValueError(f"teacher_checkpoint {path} holds a model {content['name']!r}, known: {', '.join(sorted(MODELS))}")
    model = MODELS[content["name"]](content["channels"], content["classes"])
    state: dict[str, Tensor] = content["state"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"teacher_checkpoint {path} does not fit its model {content['name']!r}: {error}") from error
    return Trained(model, content["name"], dataset, content["classes"], content["test_accuracy"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"teacher_checkpoint {path} is damaged or no checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= FIELDS:
        raise ValueError(f"teacher_checkpoint {path} is not a checkpoint of this version of the trainer")
    return content
