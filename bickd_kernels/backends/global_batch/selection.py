"""Which rows and classes belong to the global batch: what no rank can tell from its own rows."""

from __future__ import annotations

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch
from bickd_kernels.backends.tiles.selection import Selection, classes_without_entry, on_host, unless_all
from bickd_kernels.processes import exchange
from bickd_kernels.processes.slices import Slices


def select(slices: Slices, batch: Batch, logits: Tensor, valid: Tensor | None) -> tuple[Selection, Tensor]:
    """The selection, its rows those of this rank, and whether any row is left, a scalar of 1 or 0.

    A class belongs to the batch if neither student nor teacher gives it -inf in every row that is not ignored, of any rank.

    Args:
        slices: the rows of each rank.
        batch: this rank's.
        logits: its logits ``(2, b, C)``.
        valid: mask ``(b,)`` of its rows that are not ignored, None: all.
    """
    finite = logits != -torch.inf
    if valid is not None:
        finite &= valid[:, None]
    own_count = logits.shape[1] if valid is None else valid.sum()
    seen, count = exchange.sum_over_ranks(
        slices, finite.any(1).to(torch.int32), torch.as_tensor(own_count, dtype=torch.int32, device=logits.device)
    )
    # Without a valid row no class is absent, so that the sums stay finite.
    present = unless_all((seen > 0).all(0) | (count == 0))
    classes = None if present is None else present.to(logits.dtype)
    # With targets, and where the count is not to be waited for, every rank has a mask, or none has.
    if batch.target is None or (on_host(count) and int(count) == slices.total):
        return Selection(None, classes, 1 / slices.total, classes_without_entry(classes, None)), torch.ones_like(count)
    some_row = (count > 0).to(logits.dtype)
    rows = logits.new_ones(logits.shape[1]) if valid is None else valid.to(logits.dtype)
    return Selection(rows, classes, rows / count.clamp(min=1), classes_without_entry(classes, some_row)), some_row
