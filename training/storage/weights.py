"""Weights from other programs: finds the ``state_dict`` in a file, and fits it to a model by name and shape.

Only weights are ever loaded. Names are compared unchanged, then without the prefixes of wrappers (``module.``,
``_orig_mod.``, ``module.student.``), then under the layer names of published checkpoints. The order of the tensors never
matters.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor, nn

from training.models import classifier_of
from training.storage import files

CONTAINERS = (
    "state_dict", "model", "model_state_dict", "student", "net", "network", "weights", "params", "model_ema", "ema",
    "state_dict_ema", "params_ema", "average", "learner",
)  # fmt: skip
"""Entries that may hold the state_dict; the first one present is used."""

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Name parts that DataParallel, DistributedDataParallel, torch.compile and the like add at the start or in the middle."""

AUXILIARY = frozenset({"aux1", "aux2", "AuxLogits"})
"""Auxiliary classifiers of torchvision's googlenet and inception_v3, which only training uses."""

BOOKKEEPING = frozenset({"n_averaged", "total_ops", "total_params"})
"""Entries that weight averages and profilers leave in a state_dict."""

DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
"""The old layer names in torchvision's published densenets, such as ``norm.1`` for what is now ``norm1``."""


class Weights(NamedTuple):
    """Tensors by name, the class names if the file has them, and notes on what was left out."""

    state: dict[str, Tensor]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


class Fit(NamedTuple):
    """A state that fits the model, notes on what was left out of the file, and the layers that stay untrained."""

    state: dict[str, Tensor]
    notes: tuple[str, ...]
    untrained: tuple[str, ...]


def read(path: Path) -> Any:
    """The content of a file written by ``torch.save`` or in the .safetensors format, as tensors and plain values.

    Raises:
        ValueError: the file is damaged, or holds more than tensors and plain values.
    """
    return _read_safetensors(path) if _is_safetensors(path) else files.read(path)


def find(content: Any, path: Path) -> Weights:
    """The weights in the content of a file.

    Raises:
        ValueError: there are none, or several candidates that cannot be told apart.
    """
    found = list(_states(content))
    if not found:
        held = f"the entries {', '.join(map(repr, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} must hold a checkpoint or a state_dict, got {held[:200]}")
    (entry, state), others = found[0], [name for name, _ in found[1:]]
    if others and entry.rpartition(".")[2] not in CONTAINERS:
        raise ValueError(f"{path} must hold one state_dict, or one under 'model', got {', '.join([entry, *others])}")
    notes = tuple(f"{name} of the file, because {entry} is used" for name in others)
    return Weights(state, _class_names(content), notes)


def fit(weights: Weights, model: nn.Module, classes: int, path: Path, *, new_classifier: bool | None = None) -> Fit:
    """The weights under the names, and with the shapes, that they have in ``model``.

    Args:
        classes: number of logits of the model.
        path: of the file, for messages.
        new_classifier: keep the model's classifier if that of the file has another size or is missing; None if the user
            has no such option.

    Raises:
        ValueError: names the first tensor that is missing, has another shape, or does not exist in the model.
    """
    expected = model.state_dict()
    candidates = [_Candidate(named, expected, rest) for named, rest in _readings(weights.state, model)]
    best = min(candidates, key=lambda candidate: candidate.distance)
    heads = _heads(best, model, classes)
    if best.trouble(heads) is not None:
        raise ValueError(f"{path} does not fit: {best.trouble([])}")
    if heads and not new_classifier:
        advice = "" if new_classifier is None else "; --new-classifier leaves it untrained"
        raise ValueError(f"{path} does not fit: {_of_another_size(heads[0], best)}{advice}")
    kept = {name: tensor for name, tensor in expected.items() if _layer(name) in heads or name not in best.named}
    taken = {name: best.named[name][1] for name in expected if name not in kept}
    notes = (*weights.notes, *best.left_out())
    return Fit({**kept, **taken}, notes, tuple(heads))


class _Candidate:
    """One interpretation of a file's names: for each name in the model the name in the file and the tensor; and the rest."""

    def __init__(self, named: dict[str, tuple[str, Tensor]], expected: dict[str, Tensor], rest: list[str]) -> None:
        self.named, self.expected, self.rest = named, expected, rest
        self.missing = [name for name in expected if name not in named and not name.endswith("num_batches_tracked")]
        self.other = [name for name in expected if name in named and not _alike(named[name][1], expected[name])]
        self.unknown = [there for name, (there, _) in named.items() if name not in expected]

    @property
    def distance(self) -> tuple[int, int]:
        """How far it is from a fit; between two that fit, the one that leaves out less is closer."""
        return len(self.missing) + len(self.other), len(self.unknown) + len(self.rest)

    def trouble(self, heads: list[str]) -> str | None:
        """The first reason why it does not fit the model, except in the layers ``heads``."""
        for name in self.expected:
            if _layer(name) in heads:
                continue
            if name in self.other:
                there, tensor = self.named[name]
                wanted = self.expected[name]
                return (
                    f"{there!r} of the file is {tuple(tensor.shape)} {tensor.dtype}, and {name!r} of the model is "
                    f"{tuple(wanted.shape)} {wanted.dtype}"
                )
            if name in self.missing:
                return f"{name!r} of the model is not in the file, whose first tensors are {self._first()}"
        for there in self.unknown:
            if not _dispensable(there):
                return f"{there!r} of the file does not exist in the model"
        return None

    def left_out(self) -> list[str]:
        """The parts of the file that are left out, by the first part of their names."""
        left = [name for name in (*self.rest, *self.unknown) if name.rpartition(".")[2] not in BOOKKEEPING]
        roots = Counter(next((part for part in name.split(".") if part not in WRAPPERS), name) for name in left)
        return [f"{root} ({count} tensors)" for root, count in roots.items()]

    def _first(self) -> str:
        return ", ".join(repr(there) for there, _ in list(self.named.values())[:3]) or "of other names"


def _readings(state: dict[str, Tensor], model: nn.Module) -> Iterator[tuple[dict[str, tuple[str, Tensor]], list[str]]]:
    """The possible interpretations of a file's names, likelier ones first, each with the names that it leaves out."""
    yield {name: (name, tensor) for name, tensor in state.items()}, []
    bare = {_unwrapped(name): (name, tensor) for name, tensor in state.items()}
    if len(bare) < len(state):
        return
    published: Any = getattr(model, "published_names", dict)
    for prefix in _prefixes(bare, model):
        inside = {name[len(prefix) :]: value for name, value in bare.items() if name.startswith(prefix)}
        rest = [there for name, (there, _) in bare.items() if not name.startswith(prefix)]
        yield inside, rest
        renamed = {_renamed(name, published()): value for name, value in inside.items()}
        if len(renamed) == len(inside):
            yield renamed, rest


def _prefixes(names: Mapping[str, Any], model: nn.Module) -> list[str]:
    """The prefixes that enough names share to form a whole model; a student's before a teacher's."""
    parameters = sum(1 for _ in model.parameters())
    counts: dict[str, int] = {"": len(names)}
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts)):
            prefix = ".".join(parts[:length]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    # Two tensors may belong to a classifier, which the file may lack.
    enough = [prefix for prefix, count in counts.items() if count >= parameters - 2]
    return sorted(enough or [""], key=lambda prefix: ("teacher." in prefix, "student." not in prefix, len(prefix)))


def _unwrapped(name: str) -> str:
    bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    return DENSENET.sub(r"\1\2.", bare)


def _renamed(name: str, published: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        here = published.get(".".join(parts[:length]))
        if here is not None:
            return ".".join([here, *parts[length:]])
    return name


def _heads(candidate: _Candidate, model: nn.Module, classes: int) -> list[str]:
    """The classifiers that have another size in the file or are missing from it."""
    classifier = classifier_of(model, classes)
    own = [name for name, module in model.named_modules() if module is classifier]
    heads = {_layer(name) for name in candidate.other if _is_head(candidate, name, classes)}
    heads |= {_layer(name) for name in candidate.missing if _layer(name) in own}
    return sorted(heads)


def _is_head(candidate: _Candidate, name: str, classes: int) -> bool:
    there, here = candidate.named[name][1].shape, candidate.expected[name].shape
    return len(here) > 0 and here[0] == classes and there[:1] != here[:1] and there[1:] == here[1:]


def _of_another_size(head: str, candidate: _Candidate) -> str:
    name = next(name for name in candidate.expected if _layer(name) == head)
    wanted = candidate.expected[name].shape[0]
    if name not in candidate.named:
        return f"it has no classifier {head!r}"
    there, tensor = candidate.named[name]
    return f"its classifier {_layer(there)!r} has {tensor.shape[0]} classes, and {head!r} of the model has {wanted}"


def _alike(there: Tensor, here: Tensor) -> bool:
    return there.shape == here.shape and (there.is_floating_point() or not here.is_floating_point())


def _dispensable(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] in BOOKKEEPING or not AUXILIARY.isdisjoint(parts)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _states(content: Any, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dictionaries of tensors in a file's content, with the entries that lead to them, those of CONTAINERS first."""
    if not isinstance(content, Mapping):
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    expected = not place or place.rpartition(".")[2] in CONTAINERS
    if tensors and (any("." in name for name in tensors) or (expected and len(tensors) == len(content))):
        yield place or "the file itself", tensors
        return
    known = [name for name in CONTAINERS if name in content]
    for name in [*known, *(name for name in content if name not in known)]:
        # Optimizer states are not weights, although they have the same shapes.
        if isinstance(name, str) and not re.search("optim|sched|scaler", name):
            yield from _states(content[name], f"{place}.{name}" if place else name)


def _class_names(content: Any) -> tuple[str, ...]:
    """The class names, from any of the entries in which other programs store them."""
    if not isinstance(content, Mapping):
        return ()
    index = content.get("class_to_idx")
    if isinstance(index, Mapping) and all(isinstance(number, int) for number in index.values()):
        return tuple(str(name) for name in sorted(index, key=lambda name: index[name]))
    for entry in ("class_names", "classes"):
        names = content.get(entry)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def _is_safetensors(path: Path) -> bool:
    """Detects the format by its content, a length in eight bytes and a JSON object, or by the file name."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[4:] == b"\0\0\0\0{"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        names = json.loads(metadata.get("class_names", "[]"))
    # The library raises its own errors for a damaged header, and RuntimeError for types that PyTorch does not have.
    except Exception as error:
        raise ValueError(f"{path} is damaged or not a .safetensors file: {error}") from error
    return {"state_dict": state, "class_names": names, "metadata": metadata}
