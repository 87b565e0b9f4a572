"""Negatives of contrastive learning: samples of other classes, each as likely as any."""

import torch
from torch import Tensor, nn


class OtherClasses(nn.Module):
    """Draws, with replacement, samples of other classes than a given one.

    With the samples sorted by class, a class is one block of them: those of other classes are numbered by leaving it out.

    Args:
        labels: ``(N,)`` int64, those of all samples.

    Raises:
        ValueError: there is one class only, which has no negatives.
    """

    order: Tensor
    starts: Tensor
    counts: Tensor

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        counts = torch.bincount(labels)
        if int((counts > 0).sum()) < 2:
            raise ValueError(f"labels must be of at least 2 classes, got {int((counts > 0).sum())}")
        # They follow from the data: a saved state need not hold them.
        self.register_buffer("order", torch.argsort(labels, stable=True), persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("counts", counts, persistent=False)

    def forward(self, target: Tensor, count: int) -> Tensor:
        """Positions ``(B, count)`` of samples of other classes than ``target`` ``(B,)``."""
        starts, counts = self.starts[target, None], self.counts[target, None]
        # The remainder of so many bits is uniform up to N / 2^62.
        drawn = torch.randint(2**62, (len(target), count), device=target.device) % (len(self.order) - counts)
        return self.order[drawn + counts * (drawn >= starts)]
