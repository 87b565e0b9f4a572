"""Which samples and classes belong to a batch, and what a sample weighs in a mean over it."""

from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch, compute_dtype


class Selection(NamedTuple):
    """Rows and classes of the batch: 1 or 0 in the compute dtype, or None where all belong to it."""

    rows: Tensor | None
    """``(B,)``"""
    classes: Tensor | None
    """``(C,)``"""
    row_weights: Tensor | float
    """The weight of each row in a mean over the batch, ``(B,)``; one number where all weigh the same."""
    no_entry: Tensor | None
    """Mask, scalar or ``(C,)``, of the classes that have no entry: left out, or of a batch without rows; None: no class.
    A class of the batch whose logarithms are all -inf is none of them: it has left the range of the dtype."""

    @property
    def leaves_something_out(self) -> bool:
        return self.rows is not None or self.classes is not None


def widened_logits(batch: Batch, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """Logits of student and teacher ``(2, B, C)`` in the compute dtype, ignored rows 0; the mask ``(B,)`` of the other rows,
    None where no row is ignored."""
    dtype = compute_dtype(batch.student, batch.teacher)
    logits = torch.empty((2, *batch.student.shape), dtype=dtype, device=batch.student.device)
    for own, given in zip(logits, (batch.student, batch.teacher), strict=True):
        own.copy_(given)
    valid = None if batch.target is None else unless_all(batch.target != ignore_index)
    if valid is not None:
        logits.masked_fill_(~valid[:, None], 0.0)
    return logits, valid


def classes_without_entry(classes: Tensor | None, any_row: Tensor | None) -> Tensor | None:
    """``Selection.no_entry``, of the classes ``(C,)`` and whether there is any row; None stands for all, and for yes."""
    if classes is None:
        return None if any_row is None else any_row == 0
    return classes == 0 if any_row is None else (classes == 0) | (any_row == 0)


def unless_all(mask: Tensor) -> Tensor | None:
    """``mask``, or None if it is known to hide nothing, which spares the passes that would apply it."""
    return None if on_host(mask) and bool(mask.all()) else mask


def on_host(values: Tensor) -> bool:
    """Whether asking for a value needs no device synchronisation."""
    return values.device.type == "cpu"
