"""The one autograd.Function: what every backend's loss promises to autograd.

A backend does in forward whatever needs the whole loss, so that nothing of size C x C or B x B lives until backward; what
it saves is of the size of the logits.
"""

from typing import Any

import torch
from torch import Tensor

from bickd_kernels import backends
from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Batch
from bickd_kernels.processes.slices import Slices


class DistillationLoss(torch.autograd.Function):
    """``(loss, *terms)`` of logits ``(B, ..., C)``: the weighted sum, and the computed terms in the order of ``Result``.

    Only the loss has a gradient, and only by the student. With ``slices`` the batch is part of that of several processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor | None,
        settings: Settings,
        backend: str,
        slices: Slices | None,
        needs_gradient: bool,
    ) -> tuple[Tensor, ...]:
        classes = student_logits.shape[-1]
        batch = Batch(
            student_logits.reshape(-1, classes),
            teacher_logits.reshape(-1, classes),
            None if target is None else target.reshape(-1),
        )
        loss, *terms, saved = backends.load(backend, slices).forward(batch, settings, needs_gradient)
        computed = settings.computed(*terms)
        ctx.mark_non_differentiable(*computed)
        ctx.settings, ctx.backend, ctx.slices = settings, backend, slices
        ctx.student_shape, ctx.student_dtype = student_logits.shape, student_logits.dtype
        ctx.save_for_backward(*saved)
        return loss, *computed

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # What forward saved is a constant to autograd: differentiated again it would give a wrong number. A compiler traces
        # this function with gradients enabled, and refuses second derivatives itself.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "this loss has no second derivative: call backward or autograd.grad without create_graph=True, or use "
                "bickd_kernels.reference, which autograd can differentiate twice"
            )
        backend = backends.load(ctx.backend, ctx.slices)
        gradient = backend.backward(ctx.saved_tensors, upstream, ctx.settings, ctx.student_dtype)
        return gradient.reshape(ctx.student_shape), None, None, None, None, None, None
