"""Every option of the losses with its default and its check: a frozen record for each loss.

Every error names the option, what is allowed and what it got.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from numbers import Real
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, distributed

from bickd_kernels.backends import choice
from bickd_kernels.backends.contract import Computed, Settings, Weights
from bickd_kernels.processes.group import ProcessGroup

MIN_CONTRAST_TEMPERATURE = 0.02
"""Below this ``exp(similarity / contrast_temperature)`` approaches the float32 range."""

TEMPERATURES = (1e-6, 1e6)
"""The smallest and largest value of any temperature: squares and inverses, times a weight, stay in the float32 range."""

LARGEST_WEIGHT = 1e12
"""The largest absolute value of a weight: two weights multiplied, over a temperature, stay in the float32 range."""

Positives = Literal["label", "sample"]
Similarity = Literal["cosine", "correlation"]


def check_temperature(name: str, value: Any, minimum: float = TEMPERATURES[0]) -> float:
    """The temperature as a float, if it is positive and between ``minimum`` and the largest of ``TEMPERATURES``."""
    value = check_number(name, value)
    if value < minimum:
        allowed = "positive" if value <= 0 and minimum == TEMPERATURES[0] else f">= {minimum}"
        raise ValueError(f"{name} must be {allowed}, got {value}")
    if value > TEMPERATURES[1]:
        raise ValueError(f"{name} must be <= {TEMPERATURES[1]:g}, got {value}")
    return value


def check_contrast_temperature(name: str, value: Any) -> float:
    """The temperature as a float, if it is between ``MIN_CONTRAST_TEMPERATURE`` and the largest of ``TEMPERATURES``."""
    return check_temperature(name, value, MIN_CONTRAST_TEMPERATURE)


def check_weight(name: str, value: Any) -> float:
    """The weight as a float, if its absolute value is at most ``LARGEST_WEIGHT``."""
    value = check_number(name, value)
    if abs(value) > LARGEST_WEIGHT:
        raise ValueError(f"{name} must be in [-{LARGEST_WEIGHT:g}, {LARGEST_WEIGHT:g}], got {value}")
    return value


def check_smoothing(name: str, value: Any) -> float:
    """The label smoothing as a float, if it is in [0, 1)."""
    value = check_number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    return value


def check_number(name: str, value: Any) -> float:
    """The number as a float, if it is finite."""
    check_is_number(name, value)
    try:
        finite = math.isfinite(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite as a float, got an integer out of range") from None
    if not finite:
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def check_is_number(name: str, value: Any) -> None:
    """Checks only the type: while a compiler traces, a number that may vary has no value.

    Raises:
        TypeError: anything but a Python number.
    """
    if isinstance(value, bool) or not isinstance(value, (Real, torch.SymFloat, torch.SymInt)):
        hint = "; call .item() on it" if isinstance(value, Tensor) else ""
        raise TypeError(f"{name} must be a Python number, got {type(value).__name__}{hint}")


def check_index(name: str, value: Any) -> int:
    """The index, if it is a 64-bit integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be a 64-bit integer, got one out of range")
    return value


def check_flag(name: str, value: Any) -> bool:
    """The value as a bool; anything with a truth value is accepted."""
    return bool(value)


def check_positives(name: str, value: Any) -> Positives | None:
    """``"label"``, ``"sample"`` or None."""
    if value not in ("label", "sample", None):
        raise ValueError(f'{name} must be "label", "sample" or None, got {value!r}')
    return value


def check_similarity(name: str, value: Any) -> Similarity:
    """``"cosine"`` or ``"correlation"``."""
    if value not in ("cosine", "correlation"):
        raise ValueError(f'{name} must be "cosine" or "correlation", got {value!r}')
    return value


def check_group(name: str, value: Any) -> ProcessGroup | None:
    """None, or a process group that this process belongs to."""
    if value is None:
        return None
    if not distributed.is_available():
        raise ValueError(f"{name} must be None: this PyTorch was built without torch.distributed")
    if value is distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{name} must include the calling process, got a group that this process is not a member of")
    if not isinstance(value, distributed.ProcessGroup):
        raise TypeError(f"{name} must be a torch.distributed.ProcessGroup or None, got {type(value).__name__}")
    return value


def check_backend(name: str, value: Any) -> str:
    """The name of a backend; the environment variable is read by each call."""
    choice.check_name(value)
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "temperature": check_temperature,
    "bilateral_temperature": check_temperature,
    "kd_temperature": check_temperature,
    "contrast_temperature": check_contrast_temperature,
    "ce_weight": check_weight,
    "kd_weight": check_weight,
    "bilateral_weight": check_weight,
    "class_wise_weight": check_weight,
    "sample_wise_weight": check_weight,
    "label_smoothing": check_smoothing,
    "positives": check_positives,
    "similarity": check_similarity,
    "ignore_index": check_index,
    "return_terms": check_flag,
    "group": check_group,
    "compare_ranks": check_flag,
    "backend": check_backend,
}


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The options that both losses share."""

    contrast_temperature: float = 0.2
    class_wise_weight: float = 1.0
    sample_wise_weight: float = 1.0
    positives: Positives | None = None
    similarity: Similarity = "cosine"
    ignore_index: int = -100
    return_terms: bool = False
    group: ProcessGroup | None = None
    compare_ranks: bool = True
    backend: str = "auto"

    @property
    def group_of_several(self) -> ProcessGroup | None:
        """The group, if it has more than one process: a single process holds the whole global batch."""
        return None if self.group is None or self.group.size() == 1 else self.group

    def __post_init__(self) -> None:
        if torch.compiler.is_compiling():
            # A compiler may not know the values. The operator builds the record again when it runs, and checks it then.
            return
        for option in fields(self):
            checked = _CHECKS[option.name](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, checked)


@dataclass(frozen=True, kw_only=True)
class BilateralOptions(_Options):
    """The options of ``bilateral_loss``, which describes each of them.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: a temperature outside ``TEMPERATURES``; a ``contrast_temperature`` below ``MIN_CONTRAST_TEMPERATURE``; a
            weight beyond ``LARGEST_WEIGHT``; a number that is not finite; an ``ignore_index`` of more than 64 bits; a name
            that is not allowed.
    """

    temperature: float = 2.0

    @cached_property
    def settings(self) -> Settings:
        """What a backend computes."""
        return Settings(
            temperature=self.temperature,
            contrast_temperature=self.contrast_temperature,
            kd_temperature=1.0,
            weights=Weights(0.0, 0.0, self.class_wise_weight, self.sample_wise_weight),
            computed=Computed(
                False,
                False,
                self.return_terms or self.class_wise_weight != 0,
                self.return_terms or self.sample_wise_weight != 0,
            ),
            label_smoothing=0.0,
            ignore_index=self.ignore_index,
            by_label=self.positives != "sample",
            similarity=self.similarity,
        )


@dataclass(frozen=True, kw_only=True)
class BicKDOptions(_Options):
    """The options of ``bickd_loss``, which describes each of them. Raises the same errors as ``BilateralOptions``."""

    kd_temperature: float = 4.0
    bilateral_temperature: float = 2.0
    ce_weight: float = 0.1
    kd_weight: float = 0.9
    bilateral_weight: float = 4.0
    label_smoothing: float = 0.0

    @cached_property
    def settings(self) -> Settings:
        """What a backend computes."""
        weights = Weights(
            self.ce_weight,
            self.kd_weight,
            self.bilateral_weight * self.class_wise_weight,
            self.bilateral_weight * self.sample_wise_weight,
        )
        return Settings(
            temperature=self.bilateral_temperature,
            contrast_temperature=self.contrast_temperature,
            kd_temperature=self.kd_temperature,
            weights=weights,
            computed=Computed(*(self.return_terms or weight != 0 for weight in weights)),
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            by_label=self.positives != "sample",
            similarity=self.similarity,
        )


Options = BilateralOptions | BicKDOptions

KINDS: dict[str, type[Options]] = {"bilateral_loss": BilateralOptions, "bickd_loss": BicKDOptions}
"""The option record of each loss, by function name."""

NAMES = {name: tuple(option.name for option in fields(kind)) for name, kind in KINDS.items()}
"""The options of each loss."""

NUMBERS = {name: tuple(option.name for option in fields(kind) if option.type is float) for name, kind in KINDS.items()}
"""The numeric options of each loss, in the order in which a tensor holds them."""


class BilateralArguments(TypedDict, total=False):
    """The keyword arguments of ``bilateral_loss`` except ``return_terms``, for type checkers."""

    temperature: float
    contrast_temperature: float
    class_wise_weight: float
    sample_wise_weight: float
    positives: Positives | None
    similarity: Similarity
    ignore_index: int
    group: ProcessGroup | None
    compare_ranks: bool
    backend: str


class BicKDArguments(TypedDict, total=False):
    """The keyword arguments of ``bickd_loss`` except ``return_terms``, for type checkers."""

    kd_temperature: float
    bilateral_temperature: float
    contrast_temperature: float
    ce_weight: float
    kd_weight: float
    bilateral_weight: float
    class_wise_weight: float
    sample_wise_weight: float
    label_smoothing: float
    positives: Positives | None
    similarity: Similarity
    ignore_index: int
    group: ProcessGroup | None
    compare_ranks: bool
    backend: str


def make_options(loss: str, arguments: dict[str, Any]) -> Any:
    """The option record of a loss. Equal arguments share one record, which is checked once.

    Raises:
        TypeError, ValueError: see ``BilateralOptions``; an argument that is not an option.
    """
    if torch.compiler.is_compiling() or arguments.get("group") is not None:
        return KINDS[loss](**arguments)
    unknown = [name for name in arguments if name not in NAMES[loss]]
    if unknown:
        raise TypeError(f"{loss} has no option {unknown[0]!r}; it has {', '.join(NAMES[loss])}")
    try:
        return _cached_options(loss, tuple(arguments), *arguments.values())
    except TypeError:
        # A value is unhashable or of the wrong type: the check says which.
        return KINDS[loss](**arguments)


# The cache compares types too, because 1 == True; it does not keep a group alive.
@lru_cache(maxsize=256, typed=True)
def _cached_options(loss: str, names: tuple[str, ...], *values: Any) -> Options:
    return KINDS[loss](**dict(zip(names, values, strict=True)))
