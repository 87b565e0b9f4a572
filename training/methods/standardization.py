"""Logit standardization of Sun et al., Logit Standardization in Knowledge Distillation (arXiv 2403.01427).

z <- (z - mean(z)) / (std(z) + 1e-7) in every row; the student then matches the teacher's relations, not its magnitude.
"""

from torch import Tensor


def standardize(logits: Tensor) -> Tensor:
    """``(B, C)`` logits with mean 0 and sample standard deviation 1 in every row."""
    deviation, mean = logits.std(dim=1, keepdim=True), logits.mean(dim=1, keepdim=True)
    return (logits - mean) / (deviation + 1e-7)
