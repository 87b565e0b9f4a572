"""The weighted sum of the terms, and of their gradients."""

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings


def weighted_sum(settings: Settings, *terms: Tensor | None) -> Tensor:
    """The loss of ce, kd, class_wise and sample_wise; a term of weight 0 takes no part in it."""
    computed = settings.computed(*terms)
    weights = [weight for weight in settings.weights if weight is not None]
    addends = [(term, weight) for term, weight in zip(computed, weights, strict=True) if weight != 0]
    if not addends:
        return torch.zeros_like(computed[0])
    (term, weight), *others = addends
    loss = term * weight
    for term, weight in others:
        loss.add_(term, alpha=weight)
    return loss


def accumulate(gradient: Tensor | None, part: Tensor | None, weight: float) -> Tensor | None:
    """``gradient + weight * part``, in place; None stands for a gradient that is 0 or not wanted."""
    if part is None or weight == 0:
        return gradient
    if gradient is None:
        return part if weight == 1 else part.mul_(weight)
    return gradient.add_(part, alpha=weight)


def add_term(
    gradient: Tensor | None, term_and_part: tuple[Tensor, Tensor | None], weight: float
) -> tuple[Tensor, Tensor | None]:
    """A term, and the gradient with the term's part of it; the caller does not go on holding the part."""
    term, part = term_and_part
    return term, accumulate(gradient, part, weight)


def scaled(saved: tuple[Tensor, ...], upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """The saved gradient times the upstream one, in the student's dtype.

    It was kept in the compute dtype, because the finished gradient of a mean over a large batch underflows in float16
    before a gradient scaler has had its turn.
    """
    (gradient,) = saved
    return (gradient * upstream).to(dtype)
