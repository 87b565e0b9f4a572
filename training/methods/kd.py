"""``kd``: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (arXiv 1503.02531).

loss = ce_weight * CE(x, l) + kd_weight * T^2 mean_a sum_c q_ac log(q_ac / p_ac),   p, q = softmax of x/T, y/T
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from training.methods.method import Method, Samples, Terms, check_positive, check_weights, teacher_of
from training.methods.standardization import standardize
from training.models.output import Output


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of logits ``(B, C)``: summed over the classes, averaged over the samples."""
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    # batchmean divides only by the batch size; mean would also divide by the number of classes.
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


class KnowledgeDistillation(Method):
    """Weights and temperature as usual on CIFAR-100."""

    search: ClassVar[dict[str, tuple[float, float]]] = {"ce_weight": (0.03, 3.0), "kd_weight": (0.3, 10.0)}
    standardized: ClassVar[dict[str, float] | None] = {"ce_weight": 0.1, "kd_weight": 9.0, "temperature": 2.0}

    def __init__(
        self,
        *,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        temperature: float = 4.0,
        logit_standardization: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        check_weights(ce_weight=ce_weight, kd_weight=kd_weight)
        check_positive(temperature=temperature)
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature
        self.logit_standardization = logit_standardization

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        x, y = student.logits, teacher_of(teacher).logits
        ce = self.cross_entropy(x, samples.target)
        if self.logit_standardization:
            x, y = standardize(x), standardize(y)
        kd = divergence(x, y, self.temperature)
        return self.ce_weight * ce + self.kd_weight * kd, {"ce": ce.detach(), "kd": kd.detach()}
