"""Shared by all tests: random inputs, the three ways to call a loss, and measures of error."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends.contract import Batch, Settings
from bickd_kernels.options import BicKDOptions, BilateralOptions

KINDS = ("bilateral", "bilateral_unlabelled", "bickd")
"""The ways to call a loss: ``bilateral_loss`` with and without targets, and ``bickd_loss``."""

LABELLED_KINDS = ("bilateral", "bickd")

SHAPES = ((1, 1), (1, 7), (7, 1), (2, 2), (5, 3), (3, 11), (13, 7), (17, 29))
"""``(B, C)``: sizes of 1, primes, more samples than classes and fewer."""


ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Relative error of rounding a gradient entry, computed in float32 or float64, to the student's dtype: half a unit."""


POISONS = ("all -inf", "nan", "+inf")
"""What makes a row invalid."""

SATURATED = ("extremes and zero", "whole range", "a common shift")
"""How the largest logits may be spread."""


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


def with_probabilities(inputs: Inputs, ignored: int | None = None) -> Inputs:
    """The inputs with class probabilities as targets, at most two of them nonzero per sample, as mixup makes them."""
    samples, classes = inputs.student.shape
    target = torch.zeros(samples, classes, dtype=inputs.student.dtype)
    rows = torch.arange(samples)
    share = torch.linspace(0.1, 0.9, samples, dtype=target.dtype)
    present = ((inputs.student != -torch.inf) & (inputs.teacher != -torch.inf)).all(0).nonzero().squeeze(1)
    target[rows, present[rows % len(present)]] += share
    target[rows, present[(2 * rows + 1) % len(present)]] += 1 - share
    if ignored is not None:
        target[ignored] = 0.0
    return inputs._replace(target=target)


def constant_sample(inputs: Inputs) -> None:
    """Makes the vector of one sample of each network constant."""
    inputs.student[2] = 1.5
    inputs.teacher[4] = -3.0


def equal_samples(inputs: Inputs) -> None:
    """Makes the vector of every class constant."""
    inputs.student[:] = inputs.student[0].clone()


def keep_rows(inputs: Inputs, keep: Tensor) -> Inputs:
    """The inputs without the other rows."""
    return Inputs(*(tensor[keep] for tensor in inputs))


def own_part(inputs: Inputs, rows: Sequence[int], rank: int) -> Inputs:
    """The rows of a rank, where each holds this many."""
    first = sum(rows[:rank])
    return Inputs(*(tensor[first : first + rows[rank]] for tensor in inputs))


def network(classes: int, hidden: int) -> nn.Module:
    """A small network from logits to logits, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(classes, hidden), nn.Tanh(), nn.Linear(hidden, classes))


def poisoned(inputs: Inputs, side: str, row: int, poison: str, column: int = 2) -> Inputs:
    """The inputs with an invalid row: one that is all -inf, or contains NaN or +inf."""
    logits = getattr(inputs, side).clone()
    if poison == "all -inf":
        logits[row] = -torch.inf
    else:
        logits[row, column] = float(poison)
    return inputs._replace(**{side: logits})


def saturated(samples: int, classes: int, dtype: torch.dtype, spread: str) -> Inputs:
    """Logits up to nearly the largest of float16, or to 10,000, in one of the ways of ``SATURATED``.

    They are multiples of a power of two, so that dividing them by the temperatures is exact.
    """
    largest, step = (60_000, 32) if dtype == torch.float16 else (10_000, 4)
    generator = torch.Generator().manual_seed(3)
    if spread == "a common shift":
        signs = 2 * torch.randint(2, (2, samples, 1), generator=generator) - 1
        drawn = signs * (largest - step * torch.randint(3, (2, samples, classes), generator=generator))
    else:
        bound = 1 if spread == "extremes and zero" else largest // step
        drawn = torch.randint(-bound, bound + 1, (2, samples, classes), generator=generator) * (largest // bound)
    logits = drawn.to(dtype)
    assert torch.equal(logits.long(), drawn)
    return Inputs(logits[0], logits[1], torch.randint(classes, (samples,), generator=generator))


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


def loss_and_gradient(function: Callable[..., Tensor], inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    """The same for any function or module with the arguments of a loss."""
    student = inputs.student.clone().requires_grad_()
    loss = function(student, inputs.teacher, inputs.target, **options)
    loss.backward()
    assert student.grad is not None
    return loss.detach(), student.grad


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
