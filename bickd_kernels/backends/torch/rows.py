"""The per-sample terms and their gradient.

ce = mean_a -sum_c l_ac log softmax(x_a)_c,   l_a = (1 - s) * (onehot of the label, or given probabilities) + s * uniform
kd = T^2 mean_a KL(softmax(y_a/T) || softmax(x_a/T))
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Settings
from bickd_kernels.backends.torch.gradient import add_term
from bickd_kernels.backends.torch.selection import Selection
from bickd_kernels.inputs import is_labels


def terms_of_rows(
    batch: Batch, logits: Tensor, selection: Selection, settings: Settings, needs_gradient: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """``ce`` and ``kd``, if computed, and the gradient of their weighted sum.

    Classes outside the batch become -inf in the logits ``(2, B, C)``, in place, but only after the cross-entropy, which
    does not depend on the teacher.
    """
    ce = kd = gradient = None
    if settings.computed.ce and batch.target is not None:
        term = cross_entropy(logits[0], batch.target, selection, settings.label_smoothing, needs_gradient)
        ce, gradient = add_term(gradient, term, settings.weights.ce)
    if selection.classes is not None:
        logits.masked_fill_(selection.classes == 0, -torch.inf)
    if settings.computed.kd:
        term = distillation(logits, settings.kd_temperature, selection.row_weights, needs_gradient)
        kd, gradient = add_term(gradient, term, settings.weights.kd)
    return ce, kd, gradient


def cross_entropy(
    logits: Tensor, target: Tensor, selection: Selection, smoothing: float, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """``ce`` of logits ``(B, C)`` and its gradient ``(softmax(x_a) sum_c l_ac - l_a) / B``; ignored rows are hidden."""
    log_probabilities = F.log_softmax(logits, 1)
    if not is_labels(target):
        return _by_probabilities(log_probabilities, target, selection, smoothing, needs_gradient)
    if selection.rows is not None:
        target = target.masked_fill(selection.rows == 0, 0)
    losses = log_probabilities.gather(1, target[:, None]).squeeze(1).neg_()
    uniform = _uniform(selection, logits) if smoothing else None
    if uniform is not None:
        losses = losses.mul_(1 - smoothing).sub_(_expectation(uniform, log_probabilities), alpha=smoothing)
    loss = _mean(losses, selection.row_weights)
    if not needs_gradient:
        return loss, None
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, target[:, None], gradient.new_full((1, 1), smoothing - 1.0).expand(len(target), 1))
    if uniform is not None:
        gradient.sub_(uniform, alpha=smoothing)
    return loss, _scale(gradient, selection.row_weights, 1.0)


def distillation(
    logits: Tensor, temperature: float, row_weights: Tensor | float, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """``kd`` of logits ``(2, B, C)`` and its gradient ``T (softmax(x_a/T) - softmax(y_a/T)) / B``."""
    student, teacher = F.log_softmax(logits / temperature, 2)
    probabilities = teacher.exp()
    # A class of teacher probability 0 adds 0, even where the difference of logarithms is infinite or undefined.
    divergence = teacher.sub_(student).mul_(probabilities).masked_fill_(probabilities == 0, 0.0).sum(1)
    loss = _mean(divergence, row_weights) * temperature**2
    if not needs_gradient:
        return loss, None
    # Not in place of the student's logarithms: their storage also holds the teacher's, and would stay alive.
    return loss, _scale(probabilities.sub_(student.exp_()), row_weights, -temperature)


def _by_probabilities(
    log_probabilities: Tensor, target: Tensor, selection: Selection, smoothing: float, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    expected = target.to(log_probabilities.dtype)
    if smoothing:
        expected = (1 - smoothing) * expected + smoothing * _uniform(selection, log_probabilities)
    loss = _mean(_expectation(expected, log_probabilities).neg_(), selection.row_weights)
    if not needs_gradient:
        return loss, None
    gradient = log_probabilities.exp_().mul_(expected.sum(1, keepdim=True)).sub_(expected)
    return loss, _scale(gradient, selection.row_weights, 1.0)


def _expectation(probabilities: Tensor, log_probabilities: Tensor) -> Tensor:
    """``sum_c p_c log q_c`` for each row; a class of probability 0 adds 0, whatever its logarithm."""
    return (probabilities * log_probabilities).masked_fill_(probabilities == 0, 0.0).sum(1)


def _uniform(selection: Selection, like: Tensor) -> Tensor:
    """The uniform distribution over the classes of the batch, ``(C,)``."""
    if selection.classes is None:
        return like.new_full(like.shape[1:], 1 / like.shape[1])
    return selection.classes / selection.classes.sum().clamp_(min=1)


def _mean(values: Tensor, weights: Tensor | float) -> Tensor:
    return torch.dot(values, weights) if isinstance(weights, Tensor) else values.sum() * weights


def _scale(gradient: Tensor, weights: Tensor | float, factor: float) -> Tensor:
    """Multiplies ``gradient`` in place by ``factor`` and by the weight of each row in the mean."""
    return gradient.mul_((weights * factor)[:, None] if isinstance(weights, Tensor) else weights * factor)
