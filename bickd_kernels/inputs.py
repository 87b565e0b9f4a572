"""Checks of a call's tensors.

Every error names the argument, what is allowed and what it got. Values inside a tensor (labels out of range) are checked
only on the CPU, where that needs no device synchronisation.
"""

from typing import Any

import torch
from torch import Tensor

from bickd_kernels.options import Positives

_LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LABEL_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_TARGET_DTYPES = _LABEL_DTYPES + _LOGIT_DTYPES


def check_inputs(student_logits: Any, teacher_logits: Any, target: Any, positives: Positives | None) -> None:
    """Checks a call's tensors against each other without reading their values.

    Args:
        student_logits: the first argument of the losses.
        teacher_logits: the second.
        target: labels, class probabilities, or None.
        positives: the option; ``"label"`` requires labels.

    Raises:
        TypeError: not a dense tensor; logits that are not floating point; a target that is neither integer nor floating.
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
    if positives == "label" and not is_labels(target):
        got = "None" if target is None else "class probabilities"
        raise ValueError(f'positives must be "sample" or None without integer labels: target is {got}')


def is_labels(target: Tensor | None) -> bool:
    """Whether targets are labels: not missing, and not class probabilities."""
    return target is not None and not target.dtype.is_floating_point


def _check_logits(name: str, logits: Any) -> None:
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(logits).__name__}")
    if any(base.__name__ == "DTensor" for base in type(logits).__mro__):
        raise TypeError(
            f"{name} must be a plain torch.Tensor, got a DTensor; pass its to_local(), and group= for the loss of the "
            "global batch"
        )
    if logits.dtype not in _LOGIT_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {logits.dtype}")
    _check_dense(name, logits)
    if logits.dim() < 2 or logits.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (B, ..., C) with at least one class, got {tuple(logits.shape)}")


def _where_classes_are(logits: Tensor) -> str:
    """A hint for shape errors where the caller may have put the classes in the second dimension, as in images."""
    return "" if logits.dim() < 3 else "; classes come last: for logits (B, C, ...) pass logits.movedim(1, -1)"


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor (layout torch.strided), got {tensor.layout}")


def _check_target(target: Any, student_logits: Tensor) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor or None, got {type(target).__name__}")
    if target.dtype not in _TARGET_DTYPES:
        raise TypeError(
            f"target must be labels of an integer dtype or probabilities of a floating dtype, got {target.dtype}"
        )
    _check_dense("target", target)
    shape = student_logits.shape[:-1] if is_labels(target) else student_logits.shape
    if target.shape != shape:
        what = "that of student_logits without classes" if is_labels(target) else "that of student_logits for probabilities"
        raise ValueError(
            f"target must have shape {tuple(shape)}, {what}, got {tuple(target.shape)}{_where_classes_are(student_logits)}"
        )
    if target.device != student_logits.device:
        raise ValueError(f"target must be on the device of student_logits, {student_logits.device}, got {target.device}")


def check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Checks the values of labels on the host; on a device this would synchronise.

    Raises:
        ValueError: a label that is neither a class nor ``ignore_index``.
    """
    if target.device.type != "cpu" or target.numel() == 0:
        return
    # A narrow dtype may be unable to represent ignore_index: compared in that dtype, -100 would wrap around to a class.
    target = target.long()
    low, high = (int(bound) for bound in torch.aminmax(target))
    if low < 0 or high >= classes:
        wrong = target[((target < 0) | (target >= classes)) & (target != ignore_index)]
        if wrong.numel():
            raise ValueError(f"target must be in [0, {classes - 1}] or ignore_index ({ignore_index}), got {int(wrong[0])}")
