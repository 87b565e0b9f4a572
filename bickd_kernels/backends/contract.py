"""What goes into a backend and what comes out of it.

A backend is one function ``compute(batch, settings, needs_gradient) -> Result``. It gets checked, flattened inputs, runs
outside autograd, writes to none of its inputs, and knows no other backend.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings


class Batch(NamedTuple):
    """Logits ``(B, C)`` of student and teacher, any floating dtype and strides, ``B >= 1``; targets ``(B,)`` or None."""

    student: Tensor
    teacher: Tensor
    target: Tensor | None


class Result(NamedTuple):
    """The unweighted terms, and the gradient of their weighted sum.

    A term is a scalar of the compute dtype, or None where its weight is None. ``gradient`` is ``d loss / d student``,
    ``(B, C)`` in the compute dtype, or None where it was not asked for.
    """

    ce: Tensor | None
    kd: Tensor | None
    class_wise: Tensor | None
    sample_wise: Tensor | None
    gradient: Tensor | None


Backend = Callable[[Batch, Settings, bool], Result]


def compute_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    """float64 if either side is float64, else float32: 16-bit logits are widened, never the sums narrowed."""
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
