"""Negatives for contrastive learning, drawn uniformly from the samples of other classes."""

import torch
from torch import Tensor, nn


class OtherClasses(nn.Module):
    """Draws, with replacement, samples of other classes than a given one.

    Samples are sorted by class, so each class is one block; skipping the block numbers the samples of other classes.

    Args:
        labels: ``(N,)`` int64, of all samples.

    Raises:
        ValueError: there is only one class, so there are no negatives.
    """

    order: Tensor
    starts: Tensor
    counts: Tensor

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        counts = torch.bincount(labels)
        if int((counts > 0).sum()) < 2:
            raise ValueError(f"labels must be of at least 2 classes, got {int((counts > 0).sum())}")
        # Derived from the data, so a saved state need not contain them.
        self.register_buffer("order", torch.argsort(labels, stable=True), persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("counts", counts, persistent=False)

    def forward(self, target: Tensor, count: int) -> Tensor:
        """Positions ``(B, count)`` of samples of other classes than ``target`` ``(B,)``."""
        starts, counts = self.starts[target, None], self.counts[target, None]
        # The remainder of a 62-bit number is uniform up to N / 2^62.
        drawn = torch.randint(2**62, (len(target), count), device=target.device) % (len(self.order) - counts)
        return self.order[drawn + counts * (drawn >= starts)]
