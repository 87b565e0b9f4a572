"""The teacher's distributions over the samples of all ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Batch
from bickd_kernels.backends.tiles.selection import Selection
from bickd_kernels.backends.tiles.vectors import log_probabilities
from bickd_kernels.processes import exchange
from bickd_kernels.processes.slices import Slices


class Teacher(NamedTuple):
    """What the contrast needs of the global batch beside the student."""

    logarithms: Tensor
    """``(B, C)``: log-probabilities, -inf in ignored rows"""
    rows: Tensor | None
    """``(B,)``: 1, or 0 for an ignored row; None: no row is ignored"""
    labels: Tensor | None
    """``(B,)``: targets, if there are any"""


def gather_teacher(slices: Slices, batch: Batch, selection: Selection, settings: Settings, dtype: torch.dtype) -> Teacher:
    """Gathers the logits in their own dtype, in which they are no larger than they came."""
    labels = None
    if batch.target is None:
        (logits,) = exchange.gather_rows(slices, batch.teacher)
    else:
        logits, labels = exchange.gather_rows(slices, batch.teacher, batch.target)
    logits = logits.to(dtype)
    rows = None
    if selection.rows is not None and labels is not None:
        rows = (labels != settings.ignore_index).to(dtype)
        logits = logits.masked_fill((rows == 0)[:, None], 0.0)
    if selection.classes is not None:
        logits = logits.masked_fill(selection.classes == 0, -torch.inf)
    return Teacher(log_probabilities(logits, settings.temperature, rows), rows, labels)
