"""The class-wise similarity that the bilateral loss contrasts: ``M = Pc.T @ Qc``.

``Pc`` and ``Qc`` are the softened probabilities of student and teacher with every column scaled to length 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_similarity(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """``(C, C)`` in [0, 1] of logits ``(B, C)``; entry ``ij``: student class ``i``, teacher class ``j``."""

    def unit_columns(logits: Tensor) -> Tensor:
        log_probabilities = F.log_softmax(logits / temperature, dim=1)
        return torch.exp(log_probabilities - 0.5 * torch.logsumexp(2 * log_probabilities, dim=0))

    return unit_columns(student).T @ unit_columns(teacher)
