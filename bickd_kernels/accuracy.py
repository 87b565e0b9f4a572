"""How far a backend may be from the definition in float64, and the batches on which it is compared with it.

What ``python -m bickd_kernels`` and ``make gpu-check`` share. The bounds are those of ``docs/performance.md``.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends.contract import Batch

FLOAT32_GRADE, SINGLE = 2e-6, 1.5e-3
"""Errors of the gradient, relative to its largest entry, of sums in float32 and of products of single float16 operands."""

SHARP = 4e-6
"""That of sums in float32 where the contrast temperature is below 0.1, which magnifies the rounding of similarities."""

LOSS, LOSS_SINGLE = 1e-6, 1e-4
"""The same of the loss, relative to it or to 1."""

ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""What an entry can lose in the student's dtype, half a unit in the last place, relative to it."""

CANCELLED = 2e-7
"""What is left of entries that cancel, times the number of samples, of whose inverse the entries of a gradient are."""

FEW = 16
"""The kernels multiply with single operands from this number of samples and classes."""


@dataclass(frozen=True)
class Case:
    """A batch and how a loss is called on it.

    Attributes:
        samples: ``B``.
        classes: ``C``.
        dtype: of both logits.
        loss: the name of the function.
        target: ``"labels"``, ``"probabilities"``, or ``"none"`` for the bilateral loss.
        absences: whether the second sample is ignored, and one class is missing from each of the logits; needs 3 samples and
            5 classes.
        layout: ``"contiguous"``; ``"strided"``, rows apart and rows in columns; ``"offset"``, where tensors begin at no
            multiple of 16 bytes.
        options: of the call, but the backend.
    """

    samples: int
    classes: int
    dtype: torch.dtype
    loss: str = "bickd_loss"
    target: str = "labels"
    absences: bool = False
    layout: str = "contiguous"
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [f"{self.loss} ({self.samples}, {self.classes}) {str(self.dtype).removeprefix('torch.')}"]
        words += [self.target] if self.target == "probabilities" else []
        words += ["unlabelled"] if self.target == "none" else []
        words += ["absences"] if self.absences else []
        words += [self.layout] if self.layout != "contiguous" else []
        words += [f"{name}={value}" for name, value in self.options.items()]
        return " ".join(words)


class Errors(NamedTuple):
    """How far a loss and its gradient are from the definition, and how far they may be; relative to their size."""

    gradient_error: float
    gradient_tolerance: float
    loss_error: float
    loss_tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both errors are within their tolerances; NaN is not."""
        return self.gradient_error <= self.gradient_tolerance and self.loss_error <= self.loss_tolerance

    def __str__(self) -> str:
        return (
            f"gradient off by {self.gradient_error:.1e} (allowed {self.gradient_tolerance:.1e}), "
            f"loss by {self.loss_error:.1e} ({self.loss_tolerance:.1e})"
        )


def make_batch(case: Case, device: str = "cpu") -> Batch:
    """Normally distributed logits, and targets that name each class with equal chance; the same in every run."""
    generator = torch.Generator().manual_seed(case.samples * 100003 + case.classes)
    student, teacher = 3.0 * torch.randn(2, case.samples, case.classes, generator=generator)
    labels = torch.randint(case.classes, (case.samples,), generator=generator)
    if case.absences:
        student[:, 0], teacher[:, 2] = -torch.inf, -torch.inf
        # No target names an absent class, so that the cross-entropy is finite. What an ignored sample holds must not matter.
        labels[(labels == 0) | (labels == 2)] = 1
        student[1] = torch.nan
    target = _probabilities(case, labels) if case.target == "probabilities" else labels
    if case.absences:
        target[1] = 0 if case.target == "probabilities" else -100
    # Laid out on the device: a copy to it would close the gaps.
    student, teacher = _laid_out(student.to(device, case.dtype), teacher.to(device, case.dtype), case.layout)
    return Batch(student, teacher, None if case.target == "none" else target.to(device))


def loss_of(case: Case, batch: Batch, backend: str) -> Tensor:
    """The loss of a batch by a backend."""
    if case.loss == "bilateral_loss":
        return bilateral_loss(*batch, backend=backend, **case.options)
    student, teacher, target = batch
    assert target is not None
    return bickd_loss(student, teacher, target, backend=backend, **case.options)


def evaluate(case: Case, batch: Batch, backend: str) -> tuple[Tensor, Tensor]:
    """Loss and gradient by the student's logits."""
    student = batch.student.detach().requires_grad_()
    loss = loss_of(case, batch._replace(student=student), backend)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def definition(case: Case, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same by the definition in float64."""
    doubles = batch._replace(student=batch.student.double(), teacher=batch.teacher.double())
    return evaluate(case, doubles, "reference")


def compare(case: Case, backend: str, actual: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> Errors:
    """The errors of loss and gradient by a backend, and what it is allowed.

    Args:
        case: what was computed.
        backend: a resolved name.
        actual: loss and gradient.
        true: those of ``definition``.
    """
    (loss, gradient), (true_loss, true_gradient) = actual, true
    gradient_tolerance, loss_tolerance = _tolerances(case, backend)
    scale = max(float(true_gradient.abs().max()), 1e-30)
    difference = float((gradient.to(true_gradient) - true_gradient).abs().max())
    return Errors(
        gradient_error=difference / scale,
        gradient_tolerance=gradient_tolerance + CANCELLED / case.samples / scale,
        loss_error=abs(float(loss) - float(true_loss)) / max(1.0, abs(float(true_loss))),
        loss_tolerance=loss_tolerance,
    )


def _tolerances(case: Case, backend: str) -> tuple[float, float]:
    # The rule as it is documented, not ``planning.parts_of`` itself: that needs Triton, and may be what is wrong.
    contrast_temperature = case.options.get("contrast_temperature", 0.2)
    temperature = case.options.get("temperature" if case.loss == "bilateral_loss" else "bilateral_temperature", 2.0)
    # Correlations spread wider than cosines, and are sharper at the same temperature.
    sharp = contrast_temperature < (0.15 if case.options.get("similarity") == "correlation" else 0.1) or temperature < 1
    narrow = case.dtype != torch.float32 or torch.get_float32_matmul_precision() != "highest"
    if backend == "triton" and narrow and not sharp and min(case.samples, case.classes) >= FEW:
        return SINGLE + ROUNDING[case.dtype], LOSS_SINGLE
    grade = FLOAT32_GRADE if contrast_temperature >= 0.1 else SHARP
    # A softmax magnifies the rounding of what goes into it by the inverse of its temperature.
    return grade / min(1.0, temperature) + ROUNDING[case.dtype], LOSS


def _probabilities(case: Case, labels: Tensor) -> Tensor:
    """Targets of two classes or of one for each sample, as mixup makes them."""
    target, rows = torch.zeros(case.samples, case.classes), torch.arange(case.samples)
    target[rows, labels] += 0.7
    target[rows, labels.roll(1)] += 0.3
    return target


def _laid_out(student: Tensor, teacher: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    if layout == "strided":
        return torch.cat((student, student[:, :1]), 1)[:, :-1], teacher.T.contiguous().T
    if layout == "offset":
        return _behind_one_element(student), _behind_one_element(teacher)
    return student, teacher


def _behind_one_element(logits: Tensor) -> Tensor:
    flat = logits.flatten()
    return torch.cat((flat[:1], flat))[1:].view_as(logits)
