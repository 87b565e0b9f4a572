"""The terms that ``return_terms=True`` adds to a loss: detached, unweighted scalars."""

from typing import NamedTuple

from torch import Tensor


class BilateralTerms(NamedTuple):
    """The two sides of the bilateral loss, before their weights."""

    class_wise: Tensor
    sample_wise: Tensor


class BicKDTerms(NamedTuple):
    """The terms of the total loss, before their weights."""

    ce: Tensor
    kd: Tensor
    class_wise: Tensor
    sample_wise: Tensor
