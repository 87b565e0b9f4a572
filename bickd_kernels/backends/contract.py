"""What goes into a backend and what comes out of it.

A backend is a module with the function of ``Backend``. It gets checked, flattened inputs, runs outside autograd and outside
every compiler, writes to none of its inputs, and knows no other backend.
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
    """Labels, int64 ``(B,)``; or probabilities of the classes, ``(B, C)`` of a floating dtype; or None."""


class Weights(NamedTuple):
    """What each term is multiplied by in the loss."""

    ce: float
    kd: float
    class_wise: float
    sample_wise: float


class Computed(NamedTuple):
    """Which terms are computed: those with a weight, or all if they are asked for. The cross-entropy needs a target too."""

    ce: bool
    kd: bool
    class_wise: bool
    sample_wise: bool


@dataclass(frozen=True)
class Settings:
    """What is to be computed of a batch."""

    temperature: float
    """Of both softmaxes of the bilateral loss."""
    contrast_temperature: float
    kd_temperature: float
    weights: Weights
    computed: Computed
    label_smoothing: float
    ignore_index: int
    """The label of a sample that is as if it were not in the batch."""
    by_label: bool
    """Whether samples of one label are positives of each other, where there are labels; else each is its own."""
    similarity: str
    """``"cosine"`` or ``"correlation"``."""


class Result(NamedTuple):
    """The loss, its terms and its gradient, in the compute dtype."""

    loss: Tensor
    """The sum of ``weight * term`` over the weights that are not 0, a scalar."""
    terms: Tensor
    """The unweighted terms in the order of ``Weights``, ``(4,)``; 0 what is not computed."""
    gradient: Tensor | None
    """``d loss / d student``, ``(rows, C)`` for the rows that were asked for; None where none were."""


class Backend(Protocol):
    """The losses and their gradient."""

    def compute(self, batch: Batch, settings: Settings, gradient_rows: slice | None) -> Result:
        """Loss and terms of a batch, and the gradient of the samples ``gradient_rows``, or of none."""
        ...


def compute_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    """float64 if either side is float64, else float32: 16-bit logits are widened, never the sums narrowed."""
    return torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
