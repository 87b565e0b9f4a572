"""What a network gives for a batch of images."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Logits ``(B, C)``, and where they are asked for the pooled features ``(B, D)`` that the classifier reads."""

    logits: Tensor
    features: Tensor | None = None
