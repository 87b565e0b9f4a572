"""What goes into a backend and what comes out of it.

A backend is a module with the function of ``Backend``. It gets checked, flattened inputs, runs outside autograd and outside
every compiler, writes to none of its inputs, and knows no other backend.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings


class Batch(NamedTuple):
    """Logits ``(B, C)`` of student and teacher, any floating dtype and strides, ``B >= 1``; targets ``(B,)`` or None."""

    student: Tensor
    teacher: Tensor
    target: Tensor | None


def flattened(student: Tensor, teacher: Tensor, target: Tensor | None) -> Batch:
    """The batch of logits ``(B, ..., C)`` and targets ``(B, ...)``: leading dimensions are samples."""
    classes = student.shape[-1]
    return Batch(student.reshape(-1, classes), teacher.reshape(-1, classes), None if target is None else target.reshape(-1))


class Result(NamedTuple):
    """The loss, its terms and its gradient, in the compute dtype."""

    loss: Tensor
    """The sum of ``weight * term`` over the weights that are not 0, a scalar."""
    terms: Tensor
    """The unweighted terms in the order of ``arguments.TERMS``, ``(4,)``; 0 what is not computed."""
    gradient: Tensor | None
    """``d loss / d student``, ``(B, C)``; None where it is not needed."""


class Backend(Protocol):
    """The losses and their gradient."""

    def compute(self, batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
        """Loss, terms and gradient of a batch."""
        ...


def compute_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    """float64 if either side is float64, else float32: 16-bit logits are widened, never the sums narrowed."""
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
