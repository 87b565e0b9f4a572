"""Which samples and classes belong to a batch, and the weight of a sample in a mean over the batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch, compute_dtype
from bickd_kernels.inputs import is_labels


class Selection(NamedTuple):
    """Rows and classes of the batch: 1 or 0 in the compute dtype, or None if all belong to it."""

    rows: Tensor | None
    """``(B,)``"""
    classes: Tensor | None
    """``(C,)``"""
    row_weights: Tensor | float
    """The weight of each row in a mean over the batch, ``(B,)``; one number if all weights are equal."""
    no_entry: Tensor | None
    """Mask, scalar or ``(C,)``, of the classes without entries: left out, or in a batch without rows; None: no such class.
    It does not include a class of the batch whose logarithms are all -inf: that class has underflowed."""

    @property
    def leaves_something_out(self) -> bool:
        return self.rows is not None or self.classes is not None

    def count_along(self, dim: int, size: int) -> Tensor | int:
        """How many of the ``size`` entries of a vector along dimension 1 (samples) or 2 (classes) belong to the batch."""
        members = self.members_along(dim)
        return size if members is None else members.sum().clamp_(min=1)

    def members_along(self, dim: int) -> Tensor | None:
        """These entries as a mask, 1 or 0, that broadcasts to ``(2, B, C)``; None: all."""
        if dim == 2:
            return self.classes
        return None if self.rows is None else self.rows[:, None]


def select(logits: Tensor, valid: Tensor | None) -> Selection:
    """Which rows and classes of the logits ``(2, B, C)`` take part, given the mask ``(B,)`` of rows that are not ignored."""
    rows = None if valid is None else valid.to(logits.dtype)
    row_weights: Tensor | float = 1 / logits.shape[1] if rows is None else rows / rows.sum().clamp_(min=1)
    present = _classes_of_the_batch(logits, valid)
    classes = None if present is None else present.to(logits.dtype)
    return Selection(rows, classes, row_weights, classes_without_entry(classes, None if rows is None else rows.amax()))


def widened_logits(batch: Batch, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """Logits of student and teacher ``(2, B, C)`` in the compute dtype, with ignored rows 0, and the mask ``(B,)`` of the
    other rows, None if no row is ignored."""
    dtype = compute_dtype(batch.student, batch.teacher)
    logits = torch.empty((2, *batch.student.shape), dtype=dtype, device=batch.student.device)
    for own, given in zip(logits, (batch.student, batch.teacher), strict=True):
        own.copy_(given)
    valid = None if batch.target is None else unless_all(_not_ignored(batch.target, ignore_index))
    if valid is not None:
        logits.masked_fill_(~valid[:, None], 0.0)
    return logits, valid


def _not_ignored(target: Tensor, ignore_index: int) -> Tensor:
    return target != ignore_index if is_labels(target) else (target != 0).any(1)


def _classes_of_the_batch(logits: Tensor, valid: Tensor | None) -> Tensor | None:
    """Mask ``(C,)`` of the classes with a logit other than -inf in some valid row, for both student and teacher."""
    if on_host(logits) and logits.min().item() > -torch.inf:
        return None
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None], -torch.inf)
    present = (logits.amax(1) != -torch.inf).all(0)
    if valid is not None:
        # Without a valid row, all classes count as present so that the sums stay finite.
        present |= ~valid.any()
    return unless_all(present)


def classes_without_entry(classes: Tensor | None, any_row: Tensor | None) -> Tensor | None:
    """``Selection.no_entry`` from the class mask ``(C,)`` and whether any row is valid; None means all, or yes."""
    if classes is None:
        return None if any_row is None else any_row == 0
    return classes == 0 if any_row is None else (classes == 0) | (any_row == 0)


def unless_all(mask: Tensor) -> Tensor | None:
    """``mask``, or None if it is known to hide nothing, which saves the passes that would apply it."""
    return None if on_host(mask) and bool(mask.all()) else mask


def on_host(values: Tensor) -> bool:
    """Whether reading a value needs no device synchronisation."""
    return values.device.type == "cpu"
