"""The loss of the global batch, the concatenation of the batches of all ranks of a group.

Every rank gathers logits and targets and calls its backend on the whole batch, but computes the gradient of its own samples
only. On a GPU the whole batch takes tens of microseconds; sharing the work would need several messages instead of one.
Where sums over samples suffice, ``summed_batch`` moves less data.

For ``k`` ranks, the gradient of each rank is scaled by ``k``, because data-parallel training averages over the ranks.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from bickd_kernels import reference as definition
from bickd_kernels.backends import choice
from bickd_kernels.backends.contract import Batch, Result, Settings, compute_dtype
from bickd_kernels.call import Call
from bickd_kernels.options import NUMBERS
from bickd_kernels.processes import exchange, summed_batch
from bickd_kernels.processes.agreement import agree, failure_told_to
from bickd_kernels.processes.exchange import Ranks


def compute(call: Call, needs_gradient: bool) -> Result:
    """The ``Backend.compute`` result for this rank's samples as part of the global batch; a collective call."""
    ranks, own, settings = _prepare(call)
    if sum(ranks.rows) == 0 or not any(settings.computed):
        return _nothing(own, needs_gradient)
    if summed_batch.moves_less(ranks, own, settings):
        result = summed_batch.compute(ranks, own, settings, needs_gradient)
    else:
        whole = Batch(*gather(ranks, own.student, own.teacher, own.target))
        rows = ranks.own if needs_gradient and len(own.student) > 0 else None
        result = choice.load(call.backend).compute(whole, settings, rows)
    if not needs_gradient:
        return result
    if result.gradient is None:
        return result._replace(gradient=_nothing(own, True).gradient)
    return result._replace(gradient=result.gradient * len(ranks.rows))


def reference(call: Call) -> tuple[Tensor, Tensor]:
    """Loss and terms of the global batch from the reference, differentiable with respect to this rank's student."""
    ranks, own, settings = _prepare(call)
    student, teacher, target = gather(ranks, own.student.detach(), own.teacher, own.target)
    student = torch.cat((student[: ranks.own.start], own.student, student[ranks.own.stop :]))
    loss, terms = definition.loss_and_terms(Batch(student, teacher, target), settings)
    return loss.detach() + len(ranks.rows) * (loss - loss.detach()), terms


def gather(ranks: Ranks, student: Tensor, teacher: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The logits ``(B, C)`` and targets of the global batch in their own dtypes, gathered with one message."""
    gathered = exchange.gather_rows(ranks, student, teacher, *([] if target is None else [target]))
    return gathered[0], gathered[1], None if target is None else gathered[2]


def _prepare(call: Call) -> tuple[Ranks, Batch, Settings]:
    group, compare = call.group, call.options.compare_ranks
    assert group is not None
    with failure_told_to(group if compare else None):
        own, settings = call.checked()
    rows = (len(own.student),) * dist.get_world_size(group)
    if compare:
        rows = agree(group, rows=len(own.student), call=_compared(call, own, settings))
    return Ranks(group, dist.get_rank(group), rows), own, settings


def _compared(call: Call, own: Batch, settings: Settings) -> dict[str, object]:
    """What must be the same on every rank, by name."""
    options = ("ignore_index", "positives", "similarity", *NUMBERS[call.name])
    return {
        "the loss": call.name,
        "the number of classes": own.student.shape[-1],
        "the dtype of student_logits": str(own.student.dtype),
        "the dtype of teacher_logits": str(own.teacher.dtype),
        "the type of device": own.student.device.type,
        "target": "None" if own.target is None else f"a tensor of {own.target.dtype}",
        "backend": call.backend,
        **{name: getattr(call.options, name) for name in options},
        # A term of weight 0 is skipped, except on a rank that asks for terms.
        "the number of terms": sum(settings.computed),
    }


def _nothing(own: Batch, needs_gradient: bool) -> Result:
    zeros = torch.zeros_like(own.student, dtype=compute_dtype(own.student, own.teacher))
    return Result(zeros.new_zeros(()), zeros.new_zeros(4), zeros if needs_gradient else None)
