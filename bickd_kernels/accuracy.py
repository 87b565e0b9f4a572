"""Error bounds of the backends against the float64 reference, and the batches on which they are checked.

``python -m bickd_kernels`` and ``make gpu-check`` share this module. The bounds are those of ``docs/performance.md``.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends.contract import Batch

FLOAT32_GRADE, SINGLE = 2e-6, 1.5e-3
"""Gradient error relative to the largest entry: for float32 or split-fp16 products, and for single-fp16 operands."""

SHARP = 4e-6
"""Like ``FLOAT32_GRADE`` for contrast temperatures below 0.1, which amplify the rounding errors of similarities."""

LOSS, LOSS_SINGLE = 1e-6, 1e-4
"""Loss error for the same two cases, relative to the loss or to 1, whichever is larger."""

ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Relative rounding error of a gradient entry in the student's dtype: half a unit in the last place."""

CANCELLED = 2e-7
"""Absolute error left where gradient entries cancel, times the number of samples: entries scale with its inverse."""

FEW = 16
"""The kernels use single-fp16 operands from this number of samples and classes on."""


@dataclass(frozen=True)
class Case:
    """A batch and the loss call made on it.

    Attributes:
        samples: ``B``.
        classes: ``C``.
        dtype: of both logits.
        loss: the name of the function.
        target: ``"labels"``, ``"probabilities"``, or ``"none"`` for the bilateral loss.
        absences: whether the second sample is ignored and student and teacher each lack one class; needs 3 samples and
            5 classes.
        layout: ``"contiguous"``; ``"strided"``, a padded row stride (student) and column-major (teacher); ``"offset"``,
            tensors that do not start at a multiple of 16 bytes.
        options: of the call, without the backend.
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
    """Relative errors of a loss and its gradient against the definition, and the tolerated errors."""

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
    """Normally distributed logits and uniformly distributed labels; the same in every run."""
    generator = torch.Generator().manual_seed(case.samples * 100003 + case.classes)
    student, teacher = 3.0 * torch.randn(2, case.samples, case.classes, generator=generator)
    labels = torch.randint(case.classes, (case.samples,), generator=generator)
    if case.absences:
        student[:, 0], teacher[:, 2] = -torch.inf, -torch.inf
        # Labels avoid absent classes, so that the cross-entropy is finite. NaN in an ignored sample must not matter.
        labels[(labels == 0) | (labels == 2)] = 1
        student[1] = torch.nan
    target = _probabilities(case, labels) if case.target == "probabilities" else labels
    if case.absences:
        target[1] = 0 if case.target == "probabilities" else -100
    # The layout is made on the device: a copy to the device would close the gaps.
    student, teacher = _laid_out(student.to(device, case.dtype), teacher.to(device, case.dtype), case.layout)
    return Batch(student, teacher, None if case.target == "none" else target.to(device))


def loss_of(case: Case, batch: Batch, backend: str) -> Tensor:
    """The loss of a batch, computed by a backend."""
    if case.loss == "bilateral_loss":
        return bilateral_loss(*batch, backend=backend, **case.options)
    student, teacher, target = batch
    assert target is not None
    return bickd_loss(student, teacher, target, backend=backend, **case.options)


def evaluate(case: Case, batch: Batch, backend: str) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient with respect to the student's logits."""
    student = batch.student.detach().requires_grad_()
    loss = loss_of(case, batch._replace(student=student), backend)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def definition(case: Case, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss and gradient from the float64 reference."""
    doubles = batch._replace(student=batch.student.double(), teacher=batch.teacher.double())
    return evaluate(case, doubles, "reference")


def compare(case: Case, backend: str, actual: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> Errors:
    """The errors of a backend's loss and gradient, with their tolerances.

    Args:
        case: what was computed.
        backend: a resolved name.
        actual: loss and gradient.
        true: the results of ``definition``.
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
    # Restates the documented rule instead of calling ``planning.parts_of``, which needs Triton and may itself be wrong.
    contrast_temperature = case.options.get("contrast_temperature", 0.2)
    temperature = case.options.get("temperature" if case.loss == "bilateral_loss" else "bilateral_temperature", 2.0)
    # Correlations span a wider range than cosines, so the same temperature makes them sharper.
    sharp = contrast_temperature < (0.15 if case.options.get("similarity") == "correlation" else 0.1) or temperature < 1
    narrow = case.dtype != torch.float32 or torch.get_float32_matmul_precision() != "highest"
    if backend == "triton" and narrow and not sharp and min(case.samples, case.classes) >= FEW:
        return SINGLE + ROUNDING[case.dtype], LOSS_SINGLE
    grade = FLOAT32_GRADE if contrast_temperature >= 0.1 else SHARP
    # A softmax amplifies the rounding errors of its input by the inverse of its temperature.
    return grade / min(1.0, temperature) + ROUNDING[case.dtype], LOSS


def _probabilities(case: Case, labels: Tensor) -> Tensor:
    """Targets that mix at most two classes per sample, as mixup produces them."""
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
