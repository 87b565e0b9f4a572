"""The output of a network for a batch of images."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Logits ``(B, C)``, and if requested the pooled features ``(B, D)``, the classifier's input."""

    logits: Tensor
    features: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Output":
        """The output with ``function`` of its logits and of its features, if it has them."""
        return Output(function(self.logits), None if self.features is None else function(self.features))
