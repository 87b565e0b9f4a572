"""``dist``: Huang, You, Wang, Qian, Xu, Knowledge Distillation from A Stronger Teacher (arXiv 2205.10536).

loss = ce_weight * CE(x, l) + dist_weight * (beta * inter_class + gamma * intra_class)
inter_class = T^2 (1 - mean_a pearson(p_a:, q_a:)),   intra_class = T^2 (1 - mean_c pearson(p_:c, q_:c))

p, q = softmax of x/T, y/T. A constant row or column, such as every column of a single sample, has correlation 0 and
gradient 0.
"""

from typing import ClassVar

import torch
from torch import Tensor

from training.methods.method import Method, Samples, Terms, check_positive, check_weights, teacher_of
from training.models.output import Output


class DistillationFromStrongerTeacher(Method):
    """Weights and temperature as published for CIFAR-100; on ImageNet the temperature is 1."""

    search: ClassVar[dict[str, tuple[float, float]]] = {"ce_weight": (0.1, 10.0), "dist_weight": (0.2, 20.0)}

    def __init__(
        self,
        *,
        ce_weight: float = 1.0,
        dist_weight: float = 2.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 4.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        check_weights(ce_weight=ce_weight, dist_weight=dist_weight, beta=beta, gamma=gamma)
        check_positive(temperature=temperature)
        self.ce_weight, self.dist_weight, self.beta, self.gamma = ce_weight, dist_weight, beta, gamma
        self.temperature = temperature

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        ce = self.cross_entropy(student.logits, samples.target)
        p, q = (torch.softmax(z / self.temperature, dim=1) for z in (student.logits, teacher_of(teacher).logits))
        inter, intra = (self.temperature**2 * (1 - correlations(a, b).mean()) for a, b in ((p, q), (p.T, q.T)))
        loss = self.ce_weight * ce + self.dist_weight * (self.beta * inter + self.gamma * intra)
        return loss, {"ce": ce.detach(), "inter_class": inter.detach(), "intra_class": intra.detach()}


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlations ``(n,)`` between corresponding rows of two tensors ``(n, m)``."""
    return (standard_rows(first) * standard_rows(second)).sum(dim=1)


def standard_rows(values: Tensor) -> Tensor:
    """Rows of ``(n, m)`` with mean 0 and length 1, or 0 where a row is constant."""
    centered = values - values.mean(dim=1, keepdim=True)
    squares = centered.square().sum(dim=1, keepdim=True)
    # A constant row differs from its mean only by rounding, which scaled to length 1 would be noise with a huge gradient.
    rounding = 4 * torch.finfo(values.dtype).eps * values.detach().square().sum(dim=1, keepdim=True).sqrt()
    constant = squares.detach().sqrt() <= rounding
    return torch.where(constant, 0.0, centered) / torch.where(constant, 1.0, squares).sqrt()
