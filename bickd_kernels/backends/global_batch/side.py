"""One rank's rows of a similarity matrix: its samples, or its share of the classes, against all of the teacher's."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from bickd_kernels.backends.global_batch.teacher import Teacher
from bickd_kernels.backends.tiles import contrast
from bickd_kernels.backends.tiles.contrast import Pair, Sums
from bickd_kernels.backends.tiles.selection import Selection
from bickd_kernels.backends.tiles.vectors import largest_of_columns, normalize, project, relative_to
from bickd_kernels.processes import exchange
from bickd_kernels.processes.slices import Slices


class Side(NamedTuple):
    """Rows of one side's similarity matrix, with their sums."""

    units: Tensor
    """The student's unit vectors as they lie in its probabilities: along rows for samples, along columns for classes."""
    dim: int
    """The dimension along which they lie."""
    pair: Pair
    sums: Sums
    weights: Tensor

    @property
    def loss_of_rows(self) -> Tensor:
        return contrast.loss_of_rows(self.sums, self.weights, self.pair.own)

    def with_columns(self, columns: Tensor) -> Side:
        """The side with the column sums of all ranks."""
        return self._replace(sums=contrast.with_columns(self.sums, columns, self.pair.mask))

    @property
    def loss_of_columns(self) -> Tensor:
        return contrast.loss_of_columns(self.sums, self.weights)

    def derivative(self) -> Tensor:
        """``P * d loss / d P`` for the probabilities of ``units``."""
        slope = contrast.derivative(self.pair, self.sums, self.weights)
        return project(self.units, slope if self.dim == 1 else slope.T, self.dim)


def samples(slices: Slices, probabilities: Tensor, teacher: Teacher, contrast_temperature: float, keep: bool) -> Side:
    """This rank's samples, of probabilities ``(b, C)``; with ``keep`` a derivative will be asked for."""
    units = normalize(probabilities.clone(), 1, teacher.rows is not None)
    against = normalize(teacher.logarithms.exp(), 1, teacher.rows is not None)
    pair = contrast.pair_of(units, against, contrast_temperature, teacher.rows, teacher.labels, slices.first)
    return _side(units, 1, pair, keep)


def shared_classes(
    slices: Slices,
    logarithms: Tensor,
    teacher: Teacher,
    selection: Selection,
    contrast_temperature: float,
    keep: bool,
) -> Side:
    """This rank's share of the classes; log-probabilities of its samples ``(b, C)``."""

    def unit_vectors(logarithms: Tensor, classes: slice) -> Tensor:
        no_entry = selection.no_entry
        if no_entry is not None and no_entry.dim() == 1:
            no_entry = no_entry[classes]
        relative = relative_to(largest_of_columns(logarithms, no_entry), logarithms)
        return normalize(relative, 0, selection.leaves_something_out)

    shares = slices.shares(logarithms.shape[1])
    first = sum(shares[: slices.rank])
    units = unit_vectors(exchange.to_class_slices(slices, logarithms), slice(first, first + shares[slices.rank]))
    against = unit_vectors(teacher.logarithms.clone(), slice(None))
    pair = contrast.pair_of(units.T, against.T, contrast_temperature, selection.classes, None, first)
    return _side(units, 0, pair, keep)


def _side(units: Tensor, dim: int, pair: Pair, keep: bool) -> Side:
    weights = contrast.anchor_weights(len(pair.teacher), pair.mask, pair.teacher)
    return Side(units, dim, pair, contrast.sum_exponentials(pair, keep=keep), weights)
