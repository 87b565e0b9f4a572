"""``bickd``: bilateral contrastive knowledge distillation (arXiv 2602.01265), the loss of this project.

loss = ce_weight * CE + kd_weight * KD + bilateral_weight * (class_wise + sample_wise);   see docs/loss.md
"""

from dataclasses import dataclass

from torch import Tensor

from bickd_kernels import bickd_loss
from training.methods.method import Method, Terms


@dataclass(frozen=True)
class BicKD(Method):
    """The defaults of ``bickd_loss``: those of ``kd``, and the bilateral term beside them."""

    ce_weight: float = 0.1
    kd_weight: float = 0.9
    kd_temperature: float = 4.0
    bilateral_weight: float = 4.0
    temperature: float = 2.0
    contrast_temperature: float = 0.2

    def __call__(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> tuple[Tensor, Terms]:
        if teacher is None:
            raise ValueError("teacher must be the teacher's logits, got None")
        loss, terms = bickd_loss(
            student,
            teacher,
            target,
            ce_weight=self.ce_weight,
            kd_weight=self.kd_weight,
            kd_temperature=self.kd_temperature,
            bilateral_weight=self.bilateral_weight,
            temperature=self.temperature,
            contrast_temperature=self.contrast_temperature,
            return_terms=True,
        )
        return loss, terms._asdict()
