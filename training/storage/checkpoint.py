"""Trained models on disk: weights, and what they were trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from training.data import without_path
from training.data.identity import class_differences
from training.models import make_model
from training.storage import files

FORMAT = 2
FIELDS = {"format", "name", "dataset", "channels", "classes", "test_accuracy", "state"}


class Trained(NamedTuple):
    """A trained model and what it was trained on; ``test_accuracy`` in percent, None where nobody said."""

    model: nn.Module
    name: str
    classes: int
    test_accuracy: float | None


def save(
    path: Path,
    model: nn.Module,
    *,
    name: str,
    dataset: str,
    channels: int,
    classes: int,
    test_accuracy: float,
    class_names: Sequence[str] = (),
) -> None:
    """Writes a checkpoint atomically; ``class_names`` are in the order of the logits."""
    content = {
        "format": FORMAT,
        "name": name,
        "dataset": dataset,
        "channels": channels,
        "classes": classes,
        "class_names": list(class_names),
        "test_accuracy": test_accuracy,
        "state": model.state_dict(),
    }
    files.save(path, content)


def load(
    path: Path,
    *,
    dataset: str,
    name: str | None = None,
    channels: int = 3,
    classes: int = 0,
    class_names: Sequence[str] = (),
) -> Trained:
    """Reads a model that was trained on ``dataset``, wherever that was.

    Args:
        path: a file that ``save`` wrote, or one that holds the ``state_dict`` of model ``name`` and nothing else.
        dataset: the data set that the model must have been trained on; a bare ``state_dict`` does not tell.
        name: the model that the file must hold; None accepts any that ``save`` wrote.
        channels: of the images, for a bare ``state_dict``.
        classes: of the data set, for a bare ``state_dict``.
        class_names: of the data set; where the file has them too, they decide, and not what the data set is called.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no checkpoint, its model is another one, or it was trained on other data.
    """
    if not path.is_file():
        raise FileNotFoundError(f"teacher_checkpoint must be a file, got {path}; train one with --method ce")
    try:
        content = files.read(path)
    except ValueError as error:
        raise ValueError(f"teacher_checkpoint {error}") from error
    if not isinstance(content, dict) or "format" not in content:
        return _from_state(path, content, name, channels, classes)
    if content["format"] != FORMAT or not content.keys() >= FIELDS:
        raise ValueError(f"teacher_checkpoint {path} is not a checkpoint of this version of the trainer")
    _refuse_other_classes(path, content, dataset, class_names)
    if name is not None and content["name"] != name:
        raise ValueError(f"teacher_checkpoint {path} holds {content['name']!r}, teacher is {name!r}")
    model = _filled(path, content["name"], content["channels"], content["classes"], content["state"])
    return Trained(model, content["name"], content["classes"], content["test_accuracy"])


def _refuse_other_classes(path: Path, content: dict[str, Any], dataset: str, class_names: Sequence[str]) -> None:
    names = content.get("class_names", [])
    if names and class_names:
        found = class_differences(names, class_names)
    else:
        found = [] if without_path(content["dataset"]) == without_path(dataset) else ["they have different names"]
    if found:
        told = "; ".join(found)
        raise ValueError(
            f"teacher_checkpoint {path} was trained on {content['dataset']!r}, the data set is {dataset!r}: {told}"
        )


def _from_state(path: Path, state: Any, name: str | None, channels: int, classes: int) -> Trained:
    if not isinstance(state, dict):
        raise ValueError(f"teacher_checkpoint {path} must hold a checkpoint or a state_dict, got {type(state).__name__}")
    if name is None:
        raise ValueError(f"teacher must name the model of teacher_checkpoint {path}, which is a bare state_dict; got None")
    return Trained(_filled(path, name, channels, classes, state), name, classes, None)


def _filled(path: Path, name: str, channels: int, classes: int, state: dict[str, Any]) -> nn.Module:
    model = make_model(name, channels, classes)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"teacher_checkpoint {path} does not fit its model {name!r}: {error}") from error
    return model
