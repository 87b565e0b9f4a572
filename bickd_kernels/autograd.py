"""The one autograd.Function: the gradient is formed in forward and scaled by the upstream gradient in backward.

Forward knows the whole loss, so nothing of size C x C or B x B has to live until backward: what is saved is one array of
the logits' shape. It is kept in the compute dtype, because the finished gradient of a mean over a large batch underflows
in float16 before a gradient scaler has had its turn.
"""

from typing import Any

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Backend, Batch, Result


class DistillationLoss(torch.autograd.Function):
    """``(loss, *terms)`` of logits ``(B, ..., C)``: the weighted sum, and the computed terms in the order of ``Result``.

    Only the loss has a gradient, and only by the student.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor | None,
        settings: Settings,
        backend: Backend,
        needs_gradient: bool,
    ) -> tuple[Tensor, ...]:
        classes = student_logits.shape[-1]
        result = backend(
            Batch(
                student_logits.reshape(-1, classes),
                teacher_logits.reshape(-1, classes),
                None if target is None else target.reshape(-1),
            ),
            settings,
            needs_gradient,
        )
        loss, terms = weighted_sum(result, settings)
        ctx.mark_non_differentiable(*terms)
        ctx.student_shape, ctx.student_dtype = student_logits.shape, student_logits.dtype
        if result.gradient is not None:
            ctx.save_for_backward(result.gradient)
        return loss, *terms

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # The saved gradient is a constant to autograd: differentiated again it would give a wrong number. A compiler traces
        # this function with gradients enabled, and refuses second derivatives itself.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "this loss has no second derivative: call backward or autograd.grad without create_graph=True, or use "
                "bickd_kernels.reference, which autograd can differentiate twice"
            )
        (gradient,) = ctx.saved_tensors
        scaled = (gradient * upstream).reshape(ctx.student_shape).to(ctx.student_dtype)
        return scaled, None, None, None, None, None


def weighted_sum(result: Result, settings: Settings) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss, and the terms that were computed, those of weight 0 among them."""
    terms = settings.computed(*result[:4])
    weights = [weight for weight in settings.weights if weight is not None]
    addends = [(term, weight) for term, weight in zip(terms, weights, strict=True) if weight != 0]
    if not addends:
        return torch.zeros_like(terms[0]), terms
    (term, weight), *others = addends
    loss = term * weight
    for term, weight in others:
        loss.add_(term, alpha=weight)
    return loss, terms
