"""The loss of the global batch, the concatenation of the batches of all processes of a group.

Every rank gathers logits and targets and calls its backend on the whole batch, for the gradient of its own samples alone. On
a GPU the whole batch takes tens of microseconds, and to share the work would take several messages in place of one. Where a
sum over samples is all that is needed, ``summed_batch`` moves less.

The gradient of a rank is ``k`` times that of the loss, for k ranks: data-parallel training takes the mean over the ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from bickd_kernels import reference as definition
from bickd_kernels.backends import choice
from bickd_kernels.backends.contract import Batch, Result, Settings, compute_dtype
from bickd_kernels.options import NUMBERS
from bickd_kernels.processes import exchange, summed_batch
from bickd_kernels.processes.agreement import agree, failure_told_to
from bickd_kernels.processes.exchange import Ranks

if TYPE_CHECKING:
    from bickd_kernels.operator import Call

Check = Callable[["Call"], tuple[Batch, Settings]]


def compute(call: Call, check: Check) -> Result:
    """What ``Backend.compute`` gives of this rank's samples, as a part of the global batch; all ranks call it together.

    Args:
        call: of this rank.
        check: what checks it and takes it apart.
    """
    ranks, own, settings = _prepare(call, check)
    if sum(ranks.rows) == 0 or not any(settings.computed):
        return _nothing(own, call.needs_gradient)
    if summed_batch.moves_less(ranks, own, settings):
        result = summed_batch.compute(ranks, own, settings, call.needs_gradient)
    else:
        whole = Batch(*gather(ranks, own.student, own.teacher, own.target))
        rows = ranks.own if call.needs_gradient and len(own.student) > 0 else None
        result = choice.load(call.backend).compute(whole, settings, rows)
    if not call.needs_gradient:
        return result
    if result.gradient is None:
        return result._replace(gradient=_nothing(own, True).gradient)
    return result._replace(gradient=result.gradient * len(ranks.rows))


def reference(call: Call, check: Check) -> tuple[Tensor, Tensor]:
    """Loss and terms of the global batch by definition; autograd gives this rank's student its gradient."""
    ranks, own, settings = _prepare(call, check)
    student, teacher, target = gather(ranks, own.student.detach(), own.teacher, own.target)
    student = torch.cat((student[: ranks.own.start], own.student, student[ranks.own.stop :]))
    loss, terms = definition.loss_and_terms(Batch(student, teacher, target), settings)
    return loss.detach() + len(ranks.rows) * (loss - loss.detach()), terms


def gather(ranks: Ranks, student: Tensor, teacher: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The logits ``(B, C)`` and targets of the global batch, in their own dtypes: one message."""
    gathered = exchange.gather_rows(ranks, student, teacher, *([] if target is None else [target]))
    return gathered[0], gathered[1], None if target is None else gathered[2]


def _prepare(call: Call, check: Check) -> tuple[Ranks, Batch, Settings]:
    group: Any = dist.distributed_c10d._resolve_process_group(call.group)  # type: ignore[attr-defined,arg-type]
    with failure_told_to(group) if call.compare_ranks else contextlib.nullcontext():
        own, settings = check(call)
    rows: tuple[int, ...] = (len(own.student),) * dist.get_world_size(group)
    if call.compare_ranks:
        rows = agree(group, rows=len(own.student), call=_compared(call, own, settings))
    return Ranks(group, dist.get_rank(group), rows), own, settings


def _compared(call: Call, own: Batch, settings: Settings) -> dict[str, object]:
    """By name, what has to be the same on every rank."""
    return {
        "the loss": call.name,
        "the number of classes": own.student.shape[-1],
        "the dtype of student_logits": str(own.student.dtype),
        "the dtype of teacher_logits": str(own.teacher.dtype),
        "the type of device": own.student.device.type,
        "target": "None" if own.target is None else f"a tensor of {own.target.dtype}",
        "backend": call.backend,
        "ignore_index": call.ignore_index,
        "positives": call.positives,
        "similarity": call.similarity,
        **dict(zip(NUMBERS[call.name], call.numbers.tolist(), strict=True)),
        # A weight of 0 spares a term, but for a rank that wants to see it.
        "the number of terms": sum(settings.computed),
    }


def _nothing(own: Batch, needs_gradient: bool) -> Result:
    zeros = torch.zeros_like(own.student, dtype=compute_dtype(own.student, own.teacher))
    return Result(zeros.new_zeros(()), zeros.new_zeros(4), zeros if needs_gradient else None)
