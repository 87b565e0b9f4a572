"""The whole loss of a batch, its terms and its gradient.

Both sides of the bilateral loss share one computation, ``contrast``: student unit vectors against teacher unit vectors. The
vectors are the columns (classes) or the rows (samples) of P and Q.
"""

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Result, Settings
from bickd_kernels.backends.torch.contrast import contrast
from bickd_kernels.backends.torch.gradient import accumulate, weighted_sum
from bickd_kernels.backends.torch.rows import terms_of_rows
from bickd_kernels.backends.torch.selection import Selection, select, widened_logits
from bickd_kernels.backends.torch.vectors import (
    Vectors,
    correlation_vectors,
    cosine_vectors,
    largest_of_columns,
    largest_of_rows,
    log_probabilities,
    project,
    relative_to,
    through_softmax,
)
from bickd_kernels.inputs import is_labels


def compute(batch: Batch, settings: Settings, gradient_rows: slice | None) -> Result:
    """Loss and terms of a batch, and the gradient of the samples ``gradient_rows``, if any."""
    needs_gradient = gradient_rows is not None
    logits, valid = widened_logits(batch, settings.ignore_index)
    selection = select(logits, valid)
    ce, kd, gradient = terms_of_rows(batch, logits, selection, settings, needs_gradient)
    class_wise = sample_wise = None
    if settings.computed.class_wise or settings.computed.sample_wise:
        logarithms = log_probabilities(logits, settings.temperature, selection.rows)
        # The copy of the logits is no longer needed and would add to peak memory.
        del logits
        class_wise, sample_wise, part = _bilateral(logarithms, batch.target, selection, settings, needs_gradient)
        gradient = accumulate(gradient, part, 1.0)
    loss, terms = weighted_sum(settings, ce, kd, class_wise, sample_wise)
    if gradient_rows is None:
        return Result(loss, terms, None)
    if gradient is None:
        gradient = torch.zeros(batch.student.shape, dtype=loss.dtype, device=loss.device)
    return Result(loss, terms, gradient[gradient_rows])


def _bilateral(
    logarithms: Tensor, target: Tensor | None, selection: Selection, settings: Settings, needs_gradient: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Class-wise and sample-wise contrast of log-probabilities ``(2, B, C)``, and the gradient of their weighted sum.

    Overwrites the log-probabilities.
    """
    of_samples = None
    if settings.computed.sample_wise and settings.similarity == "correlation":
        of_samples = relative_to(largest_of_rows(logarithms, selection.rows), logarithms.clone())
    if not settings.computed.class_wise:
        probabilities = relative_to(None, logarithms)
    else:
        largest = largest_of_columns(logarithms, selection.no_entry)
        relative = relative_to(largest, logarithms)
        probabilities = relative * largest.exp_()

    class_wise = sample_wise = gradient = None
    k = settings.contrast_temperature
    if settings.computed.class_wise:
        vectors = _vectors(relative, 1, selection, settings)
        class_wise, slope = contrast(vectors.units[0].T, vectors.units[1].T, k, selection.classes, None, needs_gradient)
        if selection.rows is not None:
            # Without samples all classes are alike, which gives log C; the loss of a batch without a valid row must be 0.
            class_wise = class_wise * selection.rows.amax()
        if slope is not None:
            part = through_softmax(project(vectors, slope.T, 1), probabilities[0])
            gradient = accumulate(gradient, part, settings.weights.class_wise / settings.temperature)
    if settings.computed.sample_wise:
        vectors = _vectors(probabilities if of_samples is None else of_samples, 2, selection, settings)
        labels = target if settings.by_label and is_labels(target) else None
        sample_wise, slope = contrast(vectors.units[0], vectors.units[1], k, selection.rows, labels, needs_gradient)
        if slope is not None:
            part = project(vectors, slope, 2)
            gradient = accumulate(gradient, part, settings.weights.sample_wise / settings.temperature)
    return class_wise, sample_wise, gradient


def _vectors(probabilities: Tensor, dim: int, selection: Selection, settings: Settings) -> Vectors:
    if settings.similarity == "cosine":
        return cosine_vectors(probabilities, dim, selection.leaves_something_out)
    count = selection.count_along(dim, probabilities.shape[dim])
    return correlation_vectors(probabilities, dim, selection.members_along(dim), count)
