"""``dkd``: Zhao, Cui, Song, Qiu, Liang, Decoupled Knowledge Distillation (arXiv 2203.08679).

loss = ce_weight * CE(x, l) + dkd_weight * warm_up * (alpha * TCKD + beta * NCKD)
TCKD = T^2 mean_a KL((q_t, 1 - q_t) || (p_t, 1 - p_t)),   p_t, q_t = softmax of x/T, y/T at the target
NCKD = T^2 mean_a KL(softmax of y/T over the other classes || softmax of x/T over the other classes)
warm_up = min(e / warmup_epochs, 1) in epoch e = 1, 2, ...
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from training.methods.kd import divergence
from training.methods.method import Dimensions, Method, Samples, Terms, check_positive, check_weights, teacher_of
from training.methods.standardization import standardize
from training.models.output import Output


class DecoupledKnowledgeDistillation(Method):
    """The paper uses ``beta`` 2, 6 or 8 on CIFAR-100, depending on the networks, and ``beta=0.5, temperature=1`` on
    ImageNet."""

    takes_probabilities: ClassVar[bool] = False
    search: ClassVar[dict[str, tuple[float, float]]] = {
        "ce_weight": (0.1, 10.0),
        "dkd_weight": (0.1, 10.0),
        "beta": (0.5, 50.0),
    }
    standardized: ClassVar[dict[str, float] | None] = {"ce_weight": 0.1, "dkd_weight": 9.0, "temperature": 2.0}

    def __init__(
        self,
        *,
        ce_weight: float = 1.0,
        dkd_weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup_epochs: int = 20,
        logit_standardization: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        check_weights(ce_weight=ce_weight, dkd_weight=dkd_weight, alpha=alpha, beta=beta, warmup_epochs=warmup_epochs)
        check_positive(temperature=temperature)
        self.ce_weight, self.dkd_weight, self.alpha, self.beta = ce_weight, dkd_weight, alpha, beta
        self.temperature, self.warmup_epochs = temperature, warmup_epochs
        self.logit_standardization = logit_standardization

    def set_up(self, dimensions: Dimensions) -> None:
        check_classes(dimensions.classes)

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        x, y = student.logits, teacher_of(teacher).logits
        ce = self.cross_entropy(x, samples.target)
        if self.logit_standardization:
            x, y = standardize(x), standardize(y)
        tckd, nckd = decoupled_divergences(x, y, samples.target, self.temperature)
        weight = self.dkd_weight * self.warm_up(samples.epochs)
        loss = self.ce_weight * ce + weight * (self.alpha * tckd + self.beta * nckd)
        return loss, {"ce": ce.detach(), "tckd": tckd.detach(), "nckd": nckd.detach()}

    def warm_up(self, epochs: float) -> float:
        """The factor after ``epochs`` epochs, constant within an epoch and never 0."""
        return min((int(epochs) + 1) / self.warmup_epochs, 1.0) if self.warmup_epochs > 0 else 1.0


def check_classes(classes: int) -> None:
    """Refuses fewer than two classes besides the target, for which NCKD compares nothing.

    Raises:
        ValueError: there are 2 classes or less.
    """
    if classes <= 2:
        raise ValueError(f"classes must be more than 2 for method 'dkd', got {classes}")


def decoupled_divergences(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of logits ``(B, C)`` and classes ``(B,)``."""
    check_classes(student.shape[1])
    x, others_x = split_off(student / temperature, target)
    y, others_y = split_off(teacher / temperature, target)
    # p_t = sigmoid(z), with z the target logit minus the logsumexp of the others, avoids the logarithm of a rounded 0.
    p, q = x - others_x.logsumexp(dim=1), y - others_y.logsumexp(dim=1)
    log_p, log_q = (torch.stack((F.logsigmoid(z), F.logsigmoid(-z)), dim=1) for z in (p, q))
    tckd = temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    # The temperature is in the logits already; its square is not in their divergence.
    return tckd, temperature**2 * divergence(others_x, others_y, 1.0)


def split_off(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of the targets ``(B,)``, and those of the other classes ``(B, C - 1)``."""
    column = target[:, None]
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, column)[:, 0], logits.gather(1, others + (others >= column))
