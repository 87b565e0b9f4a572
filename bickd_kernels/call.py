"""From the arguments of a public function to a checked call: what every backend may rely on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from bickd_kernels import backends
from bickd_kernels.arguments import (
    BILATERAL_ALONE,
    NUMBERS,
    check_group,
    check_index,
    check_inputs,
    check_is_number,
    check_labels,
    check_settings,
)
from bickd_kernels.backends.contract import compute_dtype
from bickd_kernels.processes.agreement import agree, failure_told_to
from bickd_kernels.processes.group import ProcessGroup
from bickd_kernels.processes.slices import Slices


class Call(NamedTuple):
    """A loss to compute."""

    student: Tensor
    """``(B, ..., C)``"""
    teacher: Tensor
    """``(B, ..., C)``, detached"""
    target: Tensor | None
    """int64 ``(B, ...)``"""
    numbers: dict[str, float]
    """By the names of ``arguments.NUMBERS``; checked, but for numbers that a compiler lets vary."""
    ignore_index: int
    wanted: int
    """The terms to compute whatever their weight, as in ``check_settings``."""
    backend: str
    """A resolved name."""
    slices: Slices | None
    """The other processes' part of the batch; None where the batch is this process's alone."""


def check(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None,
    numbers: dict[str, float],
    *,
    ignore_index: int,
    return_terms: bool,
    group: ProcessGroup | None,
    backend: str,
) -> Call:
    """Checks the arguments of ``bilateral_loss`` or, if ``numbers`` has a weight of the cross-entropy, of ``bickd_loss``.

    With a group of several processes all of them call this together, and all raise if one has reason to.

    Raises:
        TypeError, ValueError, ImportError: see ``check_settings``, ``check_group``, ``check_inputs``, ``backends.resolve``.
        RuntimeError, ValueError: see ``agree``.
    """
    check_group(group)
    alone = group is None or distributed.get_world_size(group) == 1
    arguments = (student_logits, teacher_logits, target, numbers, ignore_index, return_terms, backend)
    if alone:
        return _check_own(*arguments, alone=True)
    # Here and not as a decorator: it imports the compiler, for seconds, and not every build of PyTorch has what that needs.
    return torch.compiler.disable(_check_together)(group, *arguments)


def _check_together(group: ProcessGroup, *arguments: Any) -> Call:
    with failure_told_to(group):
        call = _check_own(*arguments, alone=False)
    student, teacher, target, numbers = arguments[:4]
    settings = check_settings(call.numbers, ignore_index=call.ignore_index, wanted=call.wanted)
    slices = agree(
        group,
        rows=student[..., 0].numel(),
        needs_gradient=torch.is_grad_enabled() and student.requires_grad,
        call={
            "the loss": "bickd_loss" if "ce_weight" in numbers else "bilateral_loss",
            "the number of classes": student.shape[-1],
            "the dtype of student_logits": str(student.dtype),
            "the dtype of teacher_logits": str(teacher.dtype),
            "the type of device": student.device.type,
            "target": "None" if target is None else "a tensor",
            "backend": call.backend,
            "ignore_index": call.ignore_index,
            **numbers,
            # A weight of 0 spares a term, but for a rank that wants to see it.
            "the number of terms": sum(weight is not None for weight in settings.weights),
        },
    )
    return call._replace(slices=slices)


def _check_own(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None,
    numbers: dict[str, float],
    ignore_index: int,
    return_terms: bool,
    backend: str,
    *,
    alone: bool,
) -> Call:
    whole = "ce_weight" in numbers
    if target is None and whole:
        raise TypeError("target must be a torch.Tensor, got None; bilateral_loss works without targets")
    numbers = numbers if whole else {**BILATERAL_ALONE, **numbers}
    wanted = 0 if not return_terms else 0b1111 if whole else 0b1100
    if torch.compiler.is_compiling():
        # The operator checks the values, when they are known.
        for name in NUMBERS:
            check_is_number(name, numbers[name])
        check_index("ignore_index", ignore_index)
    else:
        check_settings(numbers, ignore_index=ignore_index, wanted=wanted)
    check_inputs(student_logits, teacher_logits, target)
    dtype = compute_dtype(student_logits, teacher_logits)
    name = backends.resolve(backend, student_logits.device, dtype) if alone else backends.resolve_together(backend)
    if target is not None:
        # A narrow dtype need not hold ignore_index: compared as it is, -100 would wrap to a class.
        target = target.long()
        if name == "reference" or not alone:
            # Elsewhere the operator looks at them: here a compiler may know no values.
            check_labels(target, student_logits.shape[-1], ignore_index)
    return Call(student_logits, teacher_logits.detach(), target, numbers, ignore_index, wanted, name, None)
