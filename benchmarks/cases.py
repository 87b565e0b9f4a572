"""The measured batches: those of common data sets, and two series of shapes for fitting growth exponents."""

from typing import NamedTuple

import torch
from torch import Tensor

STANDARD_DEVIATION = 3.0
"""Standard deviation of the logits, about that of a trained network."""


class Case(NamedTuple):
    """A batch, and the sides of the bilateral loss computed on it."""

    name: str
    samples: int
    classes: int
    class_side: bool = True


CASES = (
    Case("CIFAR-100", 64, 100),
    Case("CIFAR-100", 128, 100),
    Case("ImageNet", 256, 1000),
    Case("ImageNet", 1024, 1000),
    Case("ImageNet-21k", 256, 21841),
    # No class side for a vocabulary: 32000 squared similarities say little about 2048 tokens.
    Case("tokens", 2048, 32000, class_side=False),
)

CLASS_SERIES = tuple(Case("classes", 256, classes) for classes in (125, 250, 500, 1000, 2000, 4000))
SAMPLE_SERIES = tuple(Case("samples", samples, 1000) for samples in (32, 64, 128, 256, 512, 1024))


class Inputs(NamedTuple):
    """Logits of student and teacher ``(B, C)``, targets ``(B,)``; the student's logits require a gradient."""

    student: Tensor
    teacher: Tensor
    target: Tensor


def make_inputs(case: Case, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Inputs:
    """Normally distributed logits and uniformly distributed targets."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.samples, case.classes)
    student, teacher = (STANDARD_DEVIATION * torch.randn(shape, generator=generator) for _ in range(2))
    target = torch.randint(case.classes, (case.samples,), generator=generator)
    return Inputs(student.to(device, dtype).requires_grad_(), teacher.to(device, dtype), target.to(device))
