"""Inputs of the tests, the three ways to call a loss, and how far two results are apart."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends.contract import Batch, Settings
from bickd_kernels.options import BicKDOptions, BilateralOptions

KINDS = ("bilateral", "bilateral_unlabelled", "bickd")
"""The losses by name: with targets, without, and the whole training loss."""

LABELLED_KINDS = ("bilateral", "bickd")

SHAPES = ((1, 1), (1, 7), (7, 1), (2, 2), (5, 3), (3, 11), (13, 7), (17, 29))
"""``(B, C)``: sizes of 1, primes, more samples than classes and fewer."""


class Inputs(NamedTuple):
    student: Tensor
    teacher: Tensor
    target: Tensor


def make_inputs(
    samples: int, classes: int, *, dtype: torch.dtype = torch.float64, seed: int = 0, scale: float = 3.0
) -> Inputs:
    """Normally distributed logits ``(samples, classes)`` and targets that name each class with equal chance."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        (scale * torch.randn(samples, classes, dtype=torch.float64, generator=generator)).to(dtype) for _ in range(2)
    )
    return Inputs(student, teacher, torch.randint(classes, (samples,), generator=generator))


def with_absences(inputs: Inputs) -> Inputs:
    """The same with an ignored row, a class without student, one without teacher; needs 3 rows and 5 classes.

    No target names the absent classes, so that the cross-entropy stays finite.
    """
    student, teacher, target = (tensor.clone() for tensor in inputs)
    student[:, 0] = -torch.inf
    teacher[:, 2] = -torch.inf
    target[(target == 0) | (target == 2)] = 1
    target[1] = -100
    # What an ignored row holds must not matter, not even to whether a class belongs to the batch.
    student[1] = torch.nan
    teacher[1] = 5.0
    return Inputs(student, teacher, target)


def call(kind: str, inputs: Inputs, **options: Any) -> Any:
    """The loss of this name; ``temperature`` is that of its bilateral term."""
    if kind == "bickd":
        return bickd_loss(*inputs, **_named_for_bickd(options))
    if kind == "bilateral":
        return bilateral_loss(*inputs, **options)
    return bilateral_loss(inputs.student, inputs.teacher, **options)


def settings_of(kind: str, **options: Any) -> Settings:
    """The settings of a loss by its name, with the defaults of the public functions."""
    if kind == "bickd":
        return BicKDOptions(**_named_for_bickd(options)).settings
    return BilateralOptions(**options).settings


def _named_for_bickd(options: dict[str, Any]) -> dict[str, Any]:
    return {"bilateral_temperature" if name == "temperature" else name: value for name, value in options.items()}


def batch_of(kind: str, inputs: Inputs) -> Batch:
    """What a backend gets of the inputs ``(B, C)`` for the loss of this name."""
    return Batch(inputs.student, inputs.teacher, None if kind == "bilateral_unlabelled" else inputs.target)


def evaluate(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient by the student's logits."""
    student = inputs.student.detach().requires_grad_()
    loss = call(kind, inputs._replace(student=student), **options)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def as_double(inputs: Inputs) -> Inputs:
    """The same numbers in float64: the truth is that of the rounded inputs."""
    return Inputs(inputs.student.double(), inputs.teacher.double(), inputs.target)


def term_rounding(dtype: torch.dtype = torch.float64, contrast_temperature: float = 0.2) -> float:
    """The most that two ways to compute a term, or an entry of its gradient, may differ by.

    A contrast is what a log-sum-exp and a cosine over the contrast temperature differ by: it rounds relative to these, which
    are up to ``1 / contrast_temperature``, however small it is itself. The logarithms that other terms are made of are about
    as large.
    """
    return 8 * torch.finfo(dtype).eps / contrast_temperature


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest expected entry; NaN, which passes no bound, where one is NaN."""
    actual, expected = actual.double(), expected.double()
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-300))


def typical_errors(
    evaluated: Callable[[Inputs], tuple[Tensor, Tensor]],
    truth: Callable[[Inputs], tuple[Tensor, Tensor]],
    batches: Iterable[Inputs],
) -> tuple[float, float]:
    """Relative errors of loss and gradient against the truth of the same numbers in float64.

    The error of one batch, and the largest of a few, is luck: two equally exact ways to compute a float32 loss differ
    in it by more than a factor of 2. What can be bounded is the root mean square over several batches.
    """
    squares = torch.zeros(2, dtype=torch.float64)
    count = 0
    for inputs in batches:
        pairs = zip(evaluated(inputs), truth(as_double(inputs)), strict=True)
        squares += torch.tensor([relative_error(value, true) for value, true in pairs], dtype=torch.float64).square()
        count += 1
    loss, gradient = (squares / count).sqrt().tolist()
    return loss, gradient
