"""The terms that treat every sample by itself, and their gradient.

ce = mean_a -log softmax(x_a)[l_a]
kd = T^2 mean_a KL(softmax(y_a/T) || softmax(x_a/T))
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, target: Tensor, valid: Tensor | None, row_weights: Tensor | float, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """``ce`` of logits ``(B, C)`` and its gradient ``(softmax(x_a) - onehot(l_a)) / B``; ``valid`` hides ignored rows."""
    log_probabilities = F.log_softmax(logits, 1)
    target = target if valid is None else target.masked_fill(~valid, 0)
    loss = _mean(log_probabilities.gather(1, target[:, None]).squeeze(1).neg_(), row_weights)
    if not needs_gradient:
        return loss, None
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, target[:, None], gradient.new_full((1, 1), -1.0).expand(len(target), 1))
    return loss, _scale(gradient, row_weights, 1.0)


def distillation(
    logits: Tensor, temperature: float, row_weights: Tensor | float, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """``kd`` of logits ``(2, B, C)`` and its gradient ``T (softmax(x_a/T) - softmax(y_a/T)) / B``."""
    student, teacher = F.log_softmax(logits / temperature, 2)
    probabilities = teacher.exp()
    # A class of teacher probability 0 adds 0, also where the difference of logarithms is infinite or undefined.
    divergence = teacher.sub_(student).mul_(probabilities).masked_fill_(probabilities == 0, 0.0).sum(1)
    loss = _mean(divergence, row_weights) * temperature**2
    if not needs_gradient:
        return loss, None
    # Not in the place of the student's logarithms, whose memory is that of both networks.
    return loss, _scale(probabilities.sub_(student.exp_()), row_weights, -temperature)


def _mean(values: Tensor, weights: Tensor | float) -> Tensor:
    return torch.dot(values, weights) if isinstance(weights, Tensor) else values.sum() * weights


def _scale(gradient: Tensor, weights: Tensor | float, factor: float) -> Tensor:
    """``gradient`` in place, times ``factor`` and the weight of each row in the mean."""
    return gradient.mul_((weights * factor)[:, None] if isinstance(weights, Tensor) else weights * factor)
