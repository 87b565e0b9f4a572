"""The loss of the global batch as an ``autograd.Function``: no compiler traces what processes tell each other."""

from typing import Any

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import flattened
from bickd_kernels.backends.global_batch import GlobalBatch
from bickd_kernels.operator import refuse_second_derivative, scaled_gradient
from bickd_kernels.processes.slices import Slices


class GlobalLoss(torch.autograd.Function):
    """``(loss, terms)`` of logits ``(B, ..., C)`` that are a part of the batch of several processes.

    Only the loss has a gradient, and only by the student.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        target: Tensor | None,
        settings: Settings,
        slices: Slices,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        result = GlobalBatch(slices).compute(flattened(student, teacher, target), settings, needs_gradient)
        ctx.mark_non_differentiable(result.terms)
        ctx.dtype = student.dtype
        if result.gradient is not None:
            ctx.save_for_backward(result.gradient.reshape(student.shape))
        return result.loss, result.terms

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        (gradient,) = ctx.saved_tensors
        return scaled_gradient(gradient, upstream, ctx.dtype), None, None, None, None, None
