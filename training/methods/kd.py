"""``kd``: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (arXiv 1503.02531).

loss = ce_weight * CE(x, l) + kd_weight * T^2 mean_a sum_c q_ac log(q_ac / p_ac),   p, q = softmax of x/T, y/T
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from training.methods.method import Method, Terms


@dataclass(frozen=True)
class KnowledgeDistillation(Method):
    """Weights and temperature as usual on CIFAR-100."""

    ce_weight: float = 0.1
    kd_weight: float = 0.9
    temperature: float = 4.0

    def __call__(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> tuple[Tensor, Terms]:
        if teacher is None:
            raise ValueError("teacher must be the teacher's logits, got None")
        ce = F.cross_entropy(student, target)
        log_p = F.log_softmax(student / self.temperature, dim=1)
        log_q = F.log_softmax(teacher / self.temperature, dim=1)
        # batchmean divides by the batch alone; mean would divide by the classes too.
        kd = self.temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        return self.ce_weight * ce + self.kd_weight * kd, {"ce": ce.detach(), "kd": kd.detach()}
