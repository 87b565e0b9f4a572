"""Shared by all tests: random inputs, the three ways to call a loss, and measures of error."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends.contract import Batch, Settings
from bickd_kernels.options import BicKDOptions, BilateralOptions

KINDS = ("bilateral", "bilateral_unlabelled", "bickd")
"""The ways to call a loss: ``bilateral_loss`` with and without targets, and ``bickd_loss``."""

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
    """Normally distributed logits ``(samples, classes)`` and uniformly distributed labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        (scale * torch.randn(samples, classes, dtype=torch.float64, generator=generator)).to(dtype) for _ in range(2)
    )
    return Inputs(student, teacher, torch.randint(classes, (samples,), generator=generator))


def with_absences(inputs: Inputs) -> Inputs:
    """The inputs with an ignored row and with a class absent from each network; needs 3 rows and 5 classes.

    No label names an absent class, so that the cross-entropy stays finite.
    """
    student, teacher, target = (tensor.clone() for tensor in inputs)
    student[:, 0] = -torch.inf
    teacher[:, 2] = -torch.inf
    target[(target == 0) | (target == 2)] = 1
    target[1] = -100
    # The values of an ignored row must not matter, not even for which classes belong to the batch.
    student[1] = torch.nan
    teacher[1] = 5.0
    return Inputs(student, teacher, target)


def call(kind: str, inputs: Inputs, **options: Any) -> Any:
    """Calls a loss in one of the ways of ``KINDS``; ``temperature`` is that of the bilateral term."""
    if kind == "bickd":
        return bickd_loss(*inputs, **_named_for_bickd(options))
    if kind == "bilateral":
        return bilateral_loss(*inputs, **options)
    return bilateral_loss(inputs.student, inputs.teacher, **options)


def settings_of(kind: str, **options: Any) -> Settings:
    """The settings that a backend gets from such a call, with the defaults of the public functions."""
    if kind == "bickd":
        return BicKDOptions(**_named_for_bickd(options)).settings
    return BilateralOptions(**options).settings


def _named_for_bickd(options: dict[str, Any]) -> dict[str, Any]:
    return {"bilateral_temperature" if name == "temperature" else name: value for name, value in options.items()}


def batch_of(kind: str, inputs: Inputs) -> Batch:
    """The batch that a backend gets from such a call with inputs ``(B, C)``."""
    return Batch(inputs.student, inputs.teacher, None if kind == "bilateral_unlabelled" else inputs.target)


def evaluate(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with respect to the student's logits."""
    student = inputs.student.detach().requires_grad_()
    loss = call(kind, inputs._replace(student=student), **options)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def as_double(inputs: Inputs) -> Inputs:
    """The same numbers in float64: the true result is that of the rounded inputs."""
    return Inputs(inputs.student.double(), inputs.teacher.double(), inputs.target)


def term_rounding(dtype: torch.dtype = torch.float64, contrast_temperature: float = 0.2) -> float:
    """The largest allowed difference of two computations of a term, or of an entry of its gradient.

    A contrastive term is the difference of a log-sum-exp and a cosine, both divided by the contrast temperature. Its
    rounding errors are relative to these, which are up to ``1 / contrast_temperature``, however small the term itself is.
    The logarithms in the other terms are about as large.
    """
    return 8 * torch.finfo(dtype).eps / contrast_temperature


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest expected entry; NaN, which passes no bound, if any entry is NaN."""
    actual, expected = actual.double(), expected.double()
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-300))


def typical_errors(
    evaluated: Callable[[Inputs], tuple[Tensor, Tensor]],
    truth: Callable[[Inputs], tuple[Tensor, Tensor]],
    batches: Iterable[Inputs],
) -> tuple[float, float]:
    """Relative errors of loss and gradient against float64: the root mean square over several batches.

    The error of a single batch, like the largest of a few, cannot be bounded tightly: between two equally accurate
    computations of a float32 loss it differs by more than a factor of 2.
    """
    squares = torch.zeros(2, dtype=torch.float64)
    count = 0
    for inputs in batches:
        pairs = zip(evaluated(inputs), truth(as_double(inputs)), strict=True)
        squares += torch.tensor([relative_error(value, true) for value, true in pairs], dtype=torch.float64).square()
        count += 1
    loss, gradient = (squares / count).sqrt().tolist()
    return loss, gradient
