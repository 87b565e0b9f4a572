"""From the arguments of a public function to a checked call: what every backend may rely on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from bickd_kernels import backends
from bickd_kernels.arguments import Settings, check_group, check_inputs, check_settings
from bickd_kernels.backends.contract import Batch, compute_dtype
from bickd_kernels.processes.agreement import agree, failure_told_to
from bickd_kernels.processes.group import ProcessGroup
from bickd_kernels.processes.slices import Slices


class Call(NamedTuple):
    """A loss to compute."""

    batch: Batch
    """Logits ``(B, ..., C)``, int64 targets ``(B, ...)`` or None."""
    settings: Settings
    backend: str
    """A resolved name."""
    slices: Slices | None
    """The other processes' part of the batch; None where the batch is this process's alone."""


def check(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None,
    numbers: dict[str, Any],
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
    if group is None or distributed.get_world_size(group) == 1:
        return _check_own(student_logits, teacher_logits, target, numbers, backend, alone=True)
    # Here and not as a decorator: it imports the compiler, for seconds, and not every build of PyTorch has what that needs.
    together = torch.compiler.disable(_check_together)
    return together(student_logits, teacher_logits, target, numbers, group, backend)


def _check_together(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None,
    numbers: dict[str, Any],
    group: ProcessGroup,
    backend: str,
) -> Call:
    with failure_told_to(group):
        call = _check_own(student_logits, teacher_logits, target, numbers, backend, alone=False)
    slices = agree(
        group,
        rows=student_logits[..., 0].numel(),
        needs_gradient=torch.is_grad_enabled() and student_logits.requires_grad,
        call={
            "the loss": "bickd_loss" if "ce_weight" in numbers else "bilateral_loss",
            "the number of classes": student_logits.shape[-1],
            "the dtype of student_logits": str(student_logits.dtype),
            "the dtype of teacher_logits": str(teacher_logits.dtype),
            "the type of device": student_logits.device.type,
            "target": "None" if target is None else "a tensor",
            "backend": call.backend,
            **{name: number for name, number in numbers.items() if name != "return_terms"},
            # A weight of 0 spares a term, but for a rank that wants to see it.
            "the number of terms": sum(weight is not None for weight in call.settings.weights),
        },
    )
    return call._replace(slices=slices)


def _check_own(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None,
    numbers: dict[str, Any],
    backend: str,
    *,
    alone: bool,
) -> Call:
    if target is None and "ce_weight" in numbers:
        raise TypeError("target must be a torch.Tensor, got None; bilateral_loss works without targets")
    settings = check_settings(**numbers)
    check_inputs(student_logits, teacher_logits, target, settings.ignore_index)
    dtype = compute_dtype(student_logits, teacher_logits)
    name = backends.resolve(backend, student_logits.device, dtype) if alone else backends.resolve_together(backend)
    if target is not None:
        # A narrow dtype need not hold ignore_index: compared as it is, -100 would wrap to a class.
        target = target.long()
    return Call(Batch(student_logits, teacher_logits, target), settings, name, None)
