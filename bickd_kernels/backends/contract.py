"""The interface of a backend: its inputs and results.

A backend is a module with the function of ``Backend``. It gets checked, flattened inputs, runs outside autograd and outside
any compiler, does not modify its inputs, and does not import another backend.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """The samples of a loss, ``B >= 1``."""

    student: Tensor
    """Logits ``(B, C)``, any floating dtype and strides."""
    teacher: Tensor
    """Logits ``(B, C)``, any floating dtype and strides."""
    target: Tensor | None
    """Labels, int64 ``(B,)``; or class probabilities, ``(B, C)`` of a floating dtype; or None."""


class Weights(NamedTuple):
    """The weight of each term in the loss."""

    ce: float
    kd: float
    class_wise: float
    sample_wise: float


class Computed(NamedTuple):
    """Which terms are computed: those of nonzero weight, or all on request. The cross-entropy also needs a target."""

    ce: bool
    kd: bool
    class_wise: bool
    sample_wise: bool


@dataclass(frozen=True)
class Settings:
    """What to compute for a batch."""

    temperature: float
    """Of both softmaxes of the bilateral loss."""
    contrast_temperature: float
    kd_temperature: float
    weights: Weights
    computed: Computed
    label_smoothing: float
    ignore_index: int
    """The label of samples that are left out of the batch."""
    by_label: bool
    """Whether samples with the same label are positives of each other, if there are labels; else each is its own."""
    similarity: str
    """``"cosine"`` or ``"correlation"``."""


class Result(NamedTuple):
    """The loss, its terms and its gradient, in the compute dtype."""

    loss: Tensor
    """The sum of ``weight * term`` over the nonzero weights, a scalar."""
    terms: Tensor
    """The unweighted terms in the order of ``Weights``, ``(4,)``; 0 where not computed."""
    gradient: Tensor | None
    """``d loss / d student``, ``(rows, C)`` for the requested rows; None if none were requested."""


class Backend(Protocol):
    """The losses and their gradient."""

    def compute(self, batch: Batch, settings: Settings, gradient_rows: slice | None) -> Result:
        """Loss and terms of a batch, and the gradient of the samples ``gradient_rows``, if any."""
        ...


def compute_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    """float64 if either input is float64, else float32: 16-bit logits are widened, sums are never narrowed."""
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
