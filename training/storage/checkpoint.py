"""Trained models on disk: their weights and the data that they were trained on."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor, nn

from training.data import without_path
from training.data.identity import class_differences
from training.messages import printable
from training.models import expects_own_normalization, make_model, same_model
from training.storage import files, weights
from training.storage.weights import Fit, Weights

FORMAT = 2
FIELDS = {"format", "name", "dataset", "channels", "classes", "test_accuracy", "state"}
KINDS = {"name": str, "dataset": str, "channels": int, "classes": int, "test_accuracy": float, "state": dict}

TRAINED, AVERAGE = "the trained weights", "the moving average of the weights"
"""What the state of a checkpoint holds; with a moving average, ``trained_state`` holds the trained weights."""


class Origin(NamedTuple):
    """A model's name and training data; ``class_names`` in the order of its logits, empty if unknown; ``test_accuracy`` in
    percent; ``image_size`` if the data set has that setting."""

    name: str
    dataset: str
    channels: int
    classes: int
    class_names: tuple[str, ...]
    test_accuracy: float
    image_size: int | None = None


class Saved(NamedTuple):
    """The content of a file: weights, and if this suite wrote the file, their origin and kind."""

    weights: Weights
    origin: Origin | None = None
    kind: str = ""


class Trained(NamedTuple):
    """A trained model and its training data; ``test_accuracy`` in percent, None if unknown; ``notes`` are the parts of its
    file that were left out."""

    model: nn.Module
    name: str
    classes: int
    test_accuracy: float | None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kind: str = ""
    image_size: int | None = None


def save(path: Path, model: nn.Module, origin: Origin, trained: nn.Module | None = None) -> None:
    """Writes a checkpoint atomically; if the weights of ``model`` are a moving average, ``trained`` has the trained ones."""
    content = {
        "format": FORMAT,
        **origin._asdict(),
        "class_names": list(origin.class_names),
        "weights": TRAINED if trained is None else AVERAGE,
        "state": model.state_dict(),
        "trained_state": None if trained is None else trained.state_dict(),
    }
    files.save(path, content)


def export(path: Path, model: nn.Module, origin: Origin, *, average: bool) -> None:
    """Writes the weights atomically as a .safetensors file, under their names in ``model``."""
    metadata = {
        "format": "pt",
        "model": origin.name,
        # Folder names may contain undecodable bytes, which the format cannot store.
        "dataset": printable(origin.dataset),
        "channels": str(origin.channels),
        "classes": str(origin.classes),
        "class_names": json.dumps(origin.class_names),
        "test_accuracy": str(origin.test_accuracy),
        "image_size": json.dumps(origin.image_size),
        "weights": AVERAGE if average else TRAINED,
    }
    # The format needs a contiguous array per tensor, without shared memory or channels-last strides.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    files.write(path, lambda file: file.write(safetensors.torch.save(state, metadata)))


def read(path: Path, setting: str = "teacher_checkpoint") -> Saved:
    """A file that ``save`` or ``export`` wrote, or one with weights from elsewhere.

    Args:
        path: of a file written by torch.save or in the .safetensors format.
        setting: the setting that names the file, for messages.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, holds no weights, or holds more than weights.
    """
    if not path.is_file():
        advice = "; train one with --method ce" if setting == "teacher_checkpoint" else ""
        raise FileNotFoundError(f"{setting} must be a file, got {path}{advice}")
    try:
        content = weights.read(path)
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            return _from_elsewhere(content, path)
    except ValueError as error:
        raise ValueError(f"{setting} {error}") from error
    if content["format"] != FORMAT or not content.keys() >= FIELDS or not _well_formed(content):
        raise ValueError(f"{setting} {path} is not a checkpoint of this version of the trainer")
    return _own(content)


def load(
    path: Path,
    *,
    dataset: str,
    class_names: tuple[str, ...] = (),
    name: str | None = None,
    channels: int = 3,
    classes: int = 0,
    setting: str = "teacher_checkpoint",
) -> Trained:
    """Reads a model that was trained on the classes of ``dataset``.

    Args:
        path: a file that ``save`` or ``export`` wrote, or one with the weights of model ``name``.
        dataset: the data set that the model must have been trained on; compared if class names are unknown.
        class_names: the class names of the data set, in label order.
        name: the model that the file must hold; None accepts any model that ``save`` wrote.
        channels: number of image channels, for weights from elsewhere.
        classes: number of classes of the data set, for weights from elsewhere.
        setting: the setting that names the file, for messages.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or not a checkpoint, holds another model, or was trained on other classes.
    """
    return restore(
        read(path, setting), path, dataset=dataset, class_names=class_names, name=name, channels=channels, classes=classes,
        setting=setting,
    )  # fmt: skip


def restore(
    saved: Saved,
    path: Path,
    *,
    dataset: str,
    class_names: tuple[str, ...],
    name: str | None,
    channels: int,
    classes: int,
    setting: str,
) -> Trained:
    """The model in ``saved``, which ``read`` returned for ``path``; the other arguments are as in ``load``.

    Raises:
        ValueError: the file holds another model, or was trained on other classes.
    """
    origin = saved.origin
    if origin is None:
        if name is None:
            raise ValueError(f"teacher must name the model of {setting} {path}, which does not name it, got None")
        _refuse_other_classes(f"{setting} {path}", saved.weights, dataset, class_names)
        model: Any = make_model(name, channels, classes)
        if hasattr(model, "transform_input"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            model.transform_input = expects_own_normalization(name, digest)
        return Trained(
            model, name, classes, None, saved.weights.class_names, fill(saved, model, classes, path, setting).notes
        )
    _refuse_other_classes(f"{setting} {path}", origin, dataset, class_names)
    if name is not None and not same_model(origin.name, name):
        raise ValueError(f"{setting} {path} holds {origin.name!r}, teacher is {name!r}")
    model = make_model(origin.name, origin.channels, origin.classes)
    fitted = fill(saved, model, origin.classes, path, setting)
    return Trained(
        model, origin.name, origin.classes, origin.test_accuracy, origin.class_names, fitted.notes, saved.kind,
        origin.image_size,
    )  # fmt: skip


def fill(
    saved: Saved, model: nn.Module, classes: int, path: Path, setting: str, *, new_classifier: bool | None = None
) -> Fit:  # fmt: skip
    """Loads the weights of a file into ``model``, and returns what was left out and what stays untrained.

    Raises:
        ValueError: the weights do not fit.
    """
    try:
        fitted = weights.fit(saved.weights, model, classes, path, new_classifier=new_classifier)
        model.load_state_dict(fitted.state)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{setting} {error}") from error
    return fitted


def _well_formed(content: dict[str, Any]) -> bool:
    """Whether the entries have the types that ``save`` writes; a file from elsewhere may hold anything."""
    state, names = content["state"], content.get("class_names") or []
    return (
        all(isinstance(content[entry], kind) for entry, kind in KINDS.items())
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())
        and isinstance(content.get("image_size"), int | None)
        and isinstance(names, list)
        and all(isinstance(each, str) for each in names)
    )


def _from_elsewhere(content: Any, path: Path) -> Saved:
    """The weights in a file from another program, or from ``export``, whose metadata describe them."""
    found = weights.find(content, path)
    told: Any = content.get("metadata") if isinstance(content, dict) else None
    try:
        origin = Origin(
            told["model"], told["dataset"], int(told["channels"]), int(told["classes"]), found.class_names,
            float(told["test_accuracy"]), json.loads(told["image_size"]),
        )  # fmt: skip
    except (TypeError, KeyError, ValueError):
        return Saved(found)
    return Saved(found, origin, str(told.get("weights", "")))


def _own(content: dict[str, Any]) -> Saved:
    names = tuple(content.get("class_names") or ())
    origin = Origin(**{**{field: content.get(field) for field in Origin._fields}, "class_names": names})  # type: ignore[arg-type]
    return Saved(Weights(content["state"], names, ()), origin, content.get("weights", TRAINED))


def _refuse_other_classes(file: str, there: Origin | Weights, dataset: str, here: tuple[str, ...]) -> None:
    """Refuses a model for other classes, or for the same classes in another order.

    If the class names of either are unknown, compares the names of the data sets, if known.
    """
    called = there.dataset if isinstance(there, Origin) else None
    if there.class_names and here:
        found = class_differences(there.class_names, here)
    else:
        found = [] if called is None or without_path(called) == without_path(dataset) else ["they have different names"]
    if found:
        on = "other classes" if called is None else repr(called)
        raise ValueError(f"{file} was trained on {on}, the data set is {dataset!r}: {'; '.join(found)}")
