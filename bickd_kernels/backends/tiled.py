"""The losses and their analytic gradient in PyTorch operations, tile by tile, on any device.

Both sides of the bilateral loss are one computation, ``tiles.contrast``: student unit vectors against teacher unit vectors,
where the vectors are the columns (classes) or the rows (samples) of P and Q.
"""

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Batch, Result, compute_dtype
from bickd_kernels.backends.tiles.contrast import contrast
from bickd_kernels.backends.tiles.gradient import accumulate, add_term, weighted_sum
from bickd_kernels.backends.tiles.rows import cross_entropy, distillation
from bickd_kernels.backends.tiles.selection import (
    Selection,
    classes_without_entry,
    on_host,
    unless_all,
    widened_logits,
)
from bickd_kernels.backends.tiles.vectors import (
    largest_of_columns,
    log_probabilities,
    normalize,
    project,
    relative_to,
    through_softmax,
)


def compute(batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
    """Loss, terms and gradient of a batch."""
    logits, valid = widened_logits(batch, settings.ignore_index)
    rows = None if valid is None else valid.to(logits.dtype)
    row_weights: Tensor | float = 1 / logits.shape[1] if rows is None else rows / rows.sum().clamp_(min=1)
    ce = kd = class_wise = sample_wise = gradient = None

    if settings.ce_weight is not None and batch.target is not None:
        ce, gradient = add_term(
            gradient, cross_entropy(logits[0], batch.target, valid, row_weights, needs_gradient), settings.ce_weight
        )
    present = _classes_of_the_batch(logits, valid)
    if present is not None:
        logits.masked_fill_(~present, -torch.inf)
    classes = None if present is None else present.to(logits.dtype)
    any_row = None if rows is None else rows.amax()
    selection = Selection(rows, classes, row_weights, classes_without_entry(classes, any_row))
    if settings.kd_weight is not None:
        kd, gradient = add_term(
            gradient, distillation(logits, settings.kd_temperature, row_weights, needs_gradient), settings.kd_weight
        )
    if settings.class_weight is not None or settings.sample_weight is not None:
        logarithms = log_probabilities(logits, settings.temperature, selection.rows)
        # Nothing reads the copy of the logits any more; it would count at the peak.
        del logits
        class_wise, sample_wise, part = _bilateral(logarithms, batch.target, selection, settings, needs_gradient)
        gradient = accumulate(gradient, part, 1.0)
    if needs_gradient and gradient is None:
        dtype = compute_dtype(batch.student, batch.teacher)
        gradient = torch.zeros(batch.student.shape, dtype=dtype, device=batch.student.device)
    return Result(*weighted_sum(settings, ce, kd, class_wise, sample_wise), gradient)


def _classes_of_the_batch(logits: Tensor, valid: Tensor | None) -> Tensor | None:
    """Mask ``(C,)`` of the classes that neither student nor teacher gives -inf in every valid row; logits ``(2, B, C)``."""
    if on_host(logits) and logits.min().item() > -torch.inf:
        return None
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None], -torch.inf)
    present = (logits.amax(1) != -torch.inf).all(0)
    if valid is not None:
        # Without a valid row no class is absent, so that the sums stay finite.
        present |= ~valid.any()
    return unless_all(present)


def _bilateral(
    logarithms: Tensor, target: Tensor | None, selection: Selection, settings: Settings, needs_gradient: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Class-wise and sample-wise contrast of log-probabilities ``(2, B, C)``, and the gradient of their weighted sum.

    The log-probabilities are written to.
    """
    some_vanish = selection.leaves_something_out
    if settings.class_weight is None:
        probabilities = relative_to(None, logarithms)
    else:
        largest = largest_of_columns(logarithms, selection.no_entry)
        relative = relative_to(largest, logarithms)
        probabilities = relative * largest.exp_()

    class_wise = sample_wise = gradient = None
    k = settings.contrast_temperature
    if settings.class_weight is not None:
        units = normalize(relative, 1, some_vanish)
        class_wise, slope = contrast(units[0].T, units[1].T, k, selection.classes, None, needs_gradient)
        if selection.rows is not None:
            # Classes of no sample are all alike, which costs log C; a batch without a valid row costs nothing.
            class_wise = class_wise * selection.rows.amax()
        if slope is not None:
            part = through_softmax(project(units[0], slope.T, 0), probabilities[0])
            gradient = accumulate(gradient, part, settings.class_weight / settings.temperature)
    if settings.sample_weight is not None:
        units = normalize(probabilities, 2, some_vanish)
        sample_wise, slope = contrast(units[0], units[1], k, selection.rows, target, needs_gradient)
        if slope is not None:
            part = project(units[0], slope, 1)
            gradient = accumulate(gradient, part, settings.sample_weight / settings.temperature)
    return class_wise, sample_wise, gradient
