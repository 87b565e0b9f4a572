"""The output of a network for a batch of images."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Logits ``(B, C)``, and if requested the pooled features ``(B, D)``, the classifier's input."""

    logits: Tensor
    features: Tensor | None = None
