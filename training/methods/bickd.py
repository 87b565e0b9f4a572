"""``bickd``: bilateral contrastive knowledge distillation (arXiv 2602.01265), the loss of this project.

loss = ce_weight * CE + kd_weight * KD + bilateral_weight * (class_weight * class_wise + sample_weight * sample_wise)

See docs/loss.md. With logit standardization all but the cross-entropy is of the standardized logits.
"""

from typing import Any, ClassVar

import torch.distributed as dist
from torch import Tensor

from bickd_kernels import bickd_loss, bilateral_loss
from training.methods.kd import divergence
from training.methods.method import Method, Samples, Terms, check_positive, check_weights, teacher_of
from training.methods.standardization import standardize
from training.models.output import Output


class BicKD(Method):
    """The defaults are those of ``bickd_loss``; ``positives`` are the pairs that the sample side pulls together: all of one
    ``"label"``, or each ``"sample"`` and itself, where no label enters the bilateral term. With ``global_batch`` processes
    that train together contrast the samples of all of them, and without it each contrasts its own."""

    search: ClassVar[dict[str, tuple[float, float]]] = {
        "ce_weight": (0.03, 3.0),
        "kd_weight": (0.3, 10.0),
        "bilateral_weight": (0.3, 10.0),
    }
    standardized: ClassVar[dict[str, float] | None] = {"ce_weight": 0.1, "kd_weight": 9.0, "kd_temperature": 2.0}

    def __init__(
        self,
        *,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        kd_temperature: float = 4.0,
        bilateral_weight: float = 4.0,
        temperature: float = 2.0,
        contrast_temperature: float = 0.2,
        class_weight: float = 1.0,
        sample_weight: float = 1.0,
        positives: str = "label",
        global_batch: bool = True,
        logit_standardization: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        if positives not in ("label", "sample"):
            raise ValueError(f"positives must be 'label' or 'sample', got {positives!r}")
        if contrast_temperature < 0.02:
            raise ValueError(f"contrast_temperature must be at least 0.02, got {contrast_temperature}")
        check_positive(kd_temperature=kd_temperature, temperature=temperature, contrast_temperature=contrast_temperature)
        check_weights(
            ce_weight=ce_weight, kd_weight=kd_weight, bilateral_weight=bilateral_weight, class_weight=class_weight,
            sample_weight=sample_weight,
        )  # fmt: skip
        self.ce_weight, self.kd_weight, self.bilateral_weight = ce_weight, kd_weight, bilateral_weight
        self.kd_temperature, self.positives = kd_temperature, positives
        self.bilateral: dict[str, Any] = {
            "temperature": temperature, "contrast_temperature": contrast_temperature, "class_weight": class_weight,
            "sample_weight": sample_weight,
        }  # fmt: skip
        self.global_batch, self.logit_standardization = global_batch, logit_standardization

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        x, y, target = student.logits, teacher_of(teacher).logits, samples.target
        if self.logit_standardization or self.label_smoothing > 0 or self.positives == "sample":
            return self._term_by_term(x, y, target)
        loss, terms = bickd_loss(
            x, y, target, ce_weight=self.ce_weight, kd_weight=self.kd_weight, kd_temperature=self.kd_temperature,
            bilateral_weight=self.bilateral_weight, return_terms=True, group=self._group(), **self.bilateral,
        )  # fmt: skip
        return loss, terms._asdict()

    def _group(self) -> dist.ProcessGroup | None:
        return dist.group.WORLD if self.global_batch and dist.is_initialized() else None

    def _term_by_term(self, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Terms]:
        # bickd_loss reads one pair of logits, hard targets and positives by label for all of its terms.
        ce = self.cross_entropy(x, target)
        if self.logit_standardization:
            x, y = standardize(x), standardize(y)
        kd = divergence(x, y, self.kd_temperature)
        positives = target if self.positives == "label" else None
        bilateral, sides = bilateral_loss(x, y, positives, return_terms=True, group=self._group(), **self.bilateral)
        loss = self.ce_weight * ce + self.kd_weight * kd + self.bilateral_weight * bilateral
        return loss, {"ce": ce.detach(), "kd": kd.detach(), **sides._asdict()}
