"""The weighted sums of the terms and of their gradients."""

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Settings


def weighted_sum(settings: Settings, *terms: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss from ce, kd, class_wise and sample_wise, skipping terms of weight 0, and the terms ``(4,)``.

    None stands for a term that is not computed.
    """
    zero = next(term for term in terms if term is not None).new_zeros(())
    loss = zero
    for term, weight in zip(terms, settings.weights, strict=True):
        if term is not None and weight != 0:
            loss = loss + term * weight
    return loss, torch.stack([zero if term is None else term for term in terms])


def accumulate(gradient: Tensor | None, part: Tensor | None, weight: float) -> Tensor | None:
    """``gradient + weight * part``, in place; None stands for a gradient that is 0 or not needed."""
    if part is None or weight == 0:
        return gradient
    if gradient is None:
        return part if weight == 1 else part.mul_(weight)
    return gradient.add_(part, alpha=weight)


def add_term(
    gradient: Tensor | None, term_and_part: tuple[Tensor, Tensor | None], weight: float
) -> tuple[Tensor, Tensor | None]:
    """A term, and the gradient with the term's part added, so that the caller does not keep the part alive."""
    term, part = term_and_part
    return term, accumulate(gradient, part, weight)
