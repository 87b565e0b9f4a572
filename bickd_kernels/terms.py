"""The terms that ``return_terms=True`` adds to a loss: detached, unweighted scalars."""

from typing import NamedTuple

from torch import Tensor


class BilateralTerms(NamedTuple):
    """The two terms of the bilateral loss, before weighting."""

    class_wise: Tensor
    sample_wise: Tensor


class BicKDTerms(NamedTuple):
    """The terms of the total loss, before weighting."""

    ce: Tensor
    kd: Tensor
    class_wise: Tensor
    sample_wise: Tensor
