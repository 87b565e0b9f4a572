"""Argument checks shared by every public entry, and the records that pass on what was checked.

A check names the argument, says what it got and what is allowed. Values inside a tensor (targets out of range) are looked
at only where that costs no device synchronisation: on the CPU.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypedDict

import torch
from torch import Tensor, distributed

from bickd_kernels.processes.group import ProcessGroup

MIN_CONTRAST_TEMPERATURE = 0.02
"""Below this ``exp(similarity / contrast_temperature)`` approaches the float32 range."""

TEMPERATURES = (1e-6, 1e6)
"""The smallest and the largest temperature of any kind: their squares and inverses, times a weight, are float32 numbers."""

LARGEST_WEIGHT = 1e12
"""The largest absolute value of a weight: the product of two of them, over a temperature, is a float32 number."""

TERMS = ("ce", "kd", "class_wise", "sample_wise")
"""The terms of the losses, in the order of every tensor of terms."""

NUMBERS = (
    "temperature",
    "contrast_temperature",
    "kd_temperature",
    "ce_weight",
    "kd_weight",
    "bilateral_weight",
    "class_weight",
    "sample_weight",
)
"""The options of the losses that are numbers, in the order of every tensor of them."""

BILATERAL_ALONE = {"kd_temperature": 1.0, "ce_weight": 0.0, "kd_weight": 0.0, "bilateral_weight": 1.0}
"""What ``bilateral_loss`` has in place of the numbers that ``bickd_loss`` takes beside its own."""

_LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Settings:
    """Temperatures and weights of one loss. A term whose weight is None is not computed."""

    temperature: float
    contrast_temperature: float
    ignore_index: int
    class_weight: float | None
    sample_weight: float | None
    ce_weight: float | None = None
    kd_weight: float | None = None
    kd_temperature: float = 1.0

    @property
    def weights(self) -> tuple[float | None, ...]:
        """The weights in the order of the terms: ce, kd, class_wise, sample_wise."""
        return self.ce_weight, self.kd_weight, self.class_weight, self.sample_weight

    @property
    def nothing_computed(self) -> bool:
        """Whether every weight is 0 and no term was asked for."""
        return all(weight is None for weight in self.weights)


class BilateralOptions(TypedDict, total=False):
    """The keyword arguments of ``bilateral_loss`` but ``return_terms``, for type checkers."""

    temperature: float
    contrast_temperature: float
    class_weight: float
    sample_weight: float
    ignore_index: int
    group: ProcessGroup | None
    backend: str


class BicKDOptions(BilateralOptions, total=False):
    """The keyword arguments of ``bickd_loss`` but ``return_terms``, for type checkers."""

    kd_temperature: float
    ce_weight: float
    kd_weight: float
    bilateral_weight: float


def check_inputs(student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> None:
    """Checks the tensors of a call against each other, without a look at their values.

    Raises:
        TypeError: not a dense tensor, logits that are not floating point, a target that is not of an integer type.
        ValueError: shapes or devices that differ, no class dimension, no class.
    """
    _check_logits("student_logits", student_logits)
    _check_logits("teacher_logits", teacher_logits)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits must have the shape of student_logits, {tuple(student_logits.shape)}, "
            f"got {tuple(teacher_logits.shape)}{_where_classes_are(student_logits)}"
        )
    if student_logits.device != teacher_logits.device:
        raise ValueError(
            f"teacher_logits must be on the device of student_logits, {student_logits.device}, got {teacher_logits.device}"
        )
    if target is not None:
        _check_target(target, student_logits)


def _check_logits(name: str, logits: Any) -> None:
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(logits).__name__}")
    if any(base.__name__ == "DTensor" for base in type(logits).__mro__):
        raise TypeError(
            f"{name} must be a plain torch.Tensor, got a DTensor; pass its to_local(), and group= for the loss over the "
            "batches of several processes"
        )
    if logits.dtype not in _LOGIT_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {logits.dtype}")
    _check_dense(name, logits)
    if logits.dim() < 2 or logits.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (B, ..., C) with at least one class, got {tuple(logits.shape)}")


def _where_classes_are(logits: Tensor) -> str:
    """What an error about shapes adds where the classes may have been taken for the second dimension, as in images."""
    return "" if logits.dim() < 3 else "; classes come last: of logits (B, C, ...) pass logits.movedim(1, -1)"


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, of layout torch.strided, got {tensor.layout}")


def _check_target(target: Any, student_logits: Tensor) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor or None, got {type(target).__name__}")
    if target.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise TypeError(f"target must be of an integer dtype, got {target.dtype}")
    _check_dense("target", target)
    if target.shape != student_logits.shape[:-1]:
        raise ValueError(
            f"target must have shape {tuple(student_logits.shape[:-1])}, that of student_logits without the classes, "
            f"got {tuple(target.shape)}{_where_classes_are(student_logits)}"
        )
    if target.device != student_logits.device:
        raise ValueError(f"target must be on the device of student_logits, {student_logits.device}, got {target.device}")


def check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Checks the values of int64 targets on the host; on a device that would wait for it.

    Raises:
        ValueError: a target that names none of the classes and is not ``ignore_index``.
    """
    if target.device.type != "cpu" or target.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(target))
    if low < 0 or high >= classes:
        wrong = target[((target < 0) | (target >= classes)) & (target != ignore_index)]
        if wrong.numel():
            raise ValueError(f"target must be in [0, {classes - 1}] or ignore_index ({ignore_index}), got {int(wrong[0])}")


def check_temperature(name: str, value: float, minimum: float = TEMPERATURES[0]) -> float:
    """The temperature as a float, if it is positive and between ``minimum`` and the largest of ``TEMPERATURES``."""
    value = check_number(name, value)
    if value < minimum:
        allowed = "positive" if value <= 0 and minimum == TEMPERATURES[0] else f">= {minimum}"
        raise ValueError(f"{name} must be {allowed}, got {value}")
    if value > TEMPERATURES[1]:
        raise ValueError(f"{name} must be <= {TEMPERATURES[1]:g}, got {value}")
    return value


def check_weight(name: str, value: float) -> float:
    """The weight as a float, if its absolute value is at most ``LARGEST_WEIGHT``."""
    value = check_number(name, value)
    if abs(value) > LARGEST_WEIGHT:
        raise ValueError(f"{name} must be in [-{LARGEST_WEIGHT:g}, {LARGEST_WEIGHT:g}], got {value}")
    return value


def check_number(name: str, value: float) -> float:
    """The number as a float, if it is finite."""
    check_is_number(name, value)
    try:
        finite = math.isfinite(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite as a float, got an integer beyond its range") from None
    if not finite:
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def check_is_number(name: str, value: object) -> None:
    """Checks the type alone: a compiler that lets a number vary knows no value of it.

    Raises:
        TypeError: anything but a Python number.
    """
    if isinstance(value, bool) or not isinstance(value, (Real, torch.SymFloat, torch.SymInt)):
        hint = "; .item() makes a number of it" if isinstance(value, Tensor) else ""
        raise TypeError(f"{name} must be a Python number, got {type(value).__name__}{hint}")


def check_index(name: str, value: int) -> int:
    """The index, if it is an integer of 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be an integer of 64 bits, got one beyond their range")
    return value


def check_group(group: object) -> None:
    """Checks that the group is None or one of processes that this process belongs to.

    Raises:
        TypeError: anything else than a process group.
        ValueError: a group that this process does not belong to.
    """
    if group is None:
        return
    if not distributed.is_available():
        raise ValueError("group must be None: this PyTorch was built without torch.distributed")
    if group is distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group must hold the process that calls the loss, which is no member of the one it got")
    if not isinstance(group, distributed.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup or None, got {type(group).__name__}")


def check_settings(numbers: dict[str, float], *, ignore_index: int, wanted: int) -> Settings:
    """Checked settings.

    Args:
        numbers: temperatures and weights by the names of ``NUMBERS``.
        ignore_index: the target of samples to leave out.
        wanted: a bit for each of ``TERMS``, the lowest for the first: set, a weight of 0 does not become None, not computed.

    Raises:
        TypeError: a temperature or weight that is no Python number, an ``ignore_index`` that is no int.
        ValueError: a temperature that is not within ``TEMPERATURES``, a ``contrast_temperature`` below
            ``MIN_CONTRAST_TEMPERATURE``, a weight beyond ``LARGEST_WEIGHT``, a number that is not finite, an
            ``ignore_index`` of more than 64 bits.
    """
    weights = {name: check_weight(name, value) for name, value in numbers.items() if name.endswith("weight")}
    factor = weights.pop("bilateral_weight")
    in_order = (
        weights["ce_weight"],
        weights["kd_weight"],
        weights["class_weight"] * factor,
        weights["sample_weight"] * factor,
    )
    ce, kd, class_wise, sample_wise = (
        weight if weight != 0 or wanted >> term & 1 else None for term, weight in enumerate(in_order)
    )
    return Settings(
        temperature=check_temperature("temperature", numbers["temperature"]),
        contrast_temperature=check_temperature(
            "contrast_temperature", numbers["contrast_temperature"], MIN_CONTRAST_TEMPERATURE
        ),
        ignore_index=check_index("ignore_index", ignore_index),
        kd_temperature=check_temperature("kd_temperature", numbers["kd_temperature"]),
        class_weight=class_wise,
        sample_weight=sample_wise,
        ce_weight=ce,
        kd_weight=kd,
    )
