"""What goes into a backend and what comes out of it.

A backend is a module, or an object, with the two functions of ``Backend``. They get checked, flattened inputs, run outside
autograd, write to none of their inputs, and know no other backend.
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


class Result(NamedTuple):
    """The loss, its unweighted terms, and what ``backward`` needs.

    ``loss`` is the sum of ``weight * term`` over the weights that are not 0, a scalar of the compute dtype; a term is one
    too, or None where its weight is None. ``saved`` is empty where no gradient was asked for.
    """

    loss: Tensor
    ce: Tensor | None
    kd: Tensor | None
    class_wise: Tensor | None
    sample_wise: Tensor | None
    saved: tuple[Tensor, ...]


class Backend(Protocol):
    """The losses and their gradient."""

    def forward(self, batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
        """Loss and terms of a batch."""
        ...

    def backward(self, saved: tuple[Tensor, ...], upstream: Tensor, settings: Settings, dtype: torch.dtype) -> Tensor:
        """``upstream * d loss / d student``, ``(B, C)`` in ``dtype``, that of the student's logits."""
        ...


def compute_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    """float64 if either side is float64, else float32: 16-bit logits are widened, never the sums narrowed."""
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
