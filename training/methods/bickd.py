"""``bickd``: bilateral contrastive knowledge distillation (arXiv 2602.01265), the loss of this project.

loss = ce_weight * CE + kd_weight * KD + bilateral_weight * bilateral
bilateral = class_wise_weight * class_wise + sample_wise_weight * sample_wise

See docs/loss.md. With logit standardization all terms except the cross-entropy use standardized logits.
"""

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from bickd_kernels import BicKDLoss
from bickd_kernels.options import BicKDOptions, Positives, Similarity
from training.methods.method import Method, Samples, Terms, check_weights, teacher_of
from training.methods.standardization import standardize
from training.models.output import Output


class BicKD(Method):
    """Options and defaults are those of ``bickd_loss``. With ``positives`` None, positives share the label; a mixed
    sample has no label and is its own only positive.

    With ``global_batch`` the loss contrasts the samples of all processes, otherwise each process contrasts only its own.
    """

    search: ClassVar[dict[str, tuple[float, float]]] = {
        "ce_weight": (0.03, 3.0),
        "kd_weight": (0.3, 10.0),
        "bilateral_weight": (0.4, 40.0),
    }
    standardized: ClassVar[dict[str, float] | None] = {"ce_weight": 0.1, "kd_weight": 9.0, "kd_temperature": 2.0}

    def __init__(
        self,
        *,
        ce_weight: float = BicKDOptions.ce_weight,
        kd_weight: float = BicKDOptions.kd_weight,
        kd_temperature: float = BicKDOptions.kd_temperature,
        bilateral_weight: float = BicKDOptions.bilateral_weight,
        bilateral_temperature: float = BicKDOptions.bilateral_temperature,
        contrast_temperature: float = BicKDOptions.contrast_temperature,
        class_wise_weight: float = BicKDOptions.class_wise_weight,
        sample_wise_weight: float = BicKDOptions.sample_wise_weight,
        positives: Positives | None = BicKDOptions.positives,
        similarity: Similarity = BicKDOptions.similarity,
        global_batch: bool = True,
        logit_standardization: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        check_weights(
            ce_weight=ce_weight, kd_weight=kd_weight, bilateral_weight=bilateral_weight,
            class_wise_weight=class_wise_weight, sample_wise_weight=sample_wise_weight,
        )  # fmt: skip
        self.loss = BicKDLoss(
            ce_weight=0.0 if logit_standardization else ce_weight, kd_weight=kd_weight, kd_temperature=kd_temperature,
            bilateral_weight=bilateral_weight, bilateral_temperature=bilateral_temperature,
            contrast_temperature=contrast_temperature, class_wise_weight=class_wise_weight,
            sample_wise_weight=sample_wise_weight, positives=positives, similarity=similarity,
            label_smoothing=label_smoothing, return_terms=True,
        )  # fmt: skip
        self.ce_weight, self.global_batch, self.logit_standardization = ce_weight, global_batch, logit_standardization

    @property
    def spans_processes(self) -> bool:
        return self.global_batch and dist.is_initialized()

    def without_samples(self, classes: int, samples: Samples) -> None:
        if self.spans_processes:
            none = torch.zeros(0, classes, device=samples.target.device, requires_grad=True)
            self._of_all(none, none.detach(), samples.target)

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        x, y = student.logits, teacher_of(teacher).logits
        if not self.logit_standardization:
            loss, terms = self._of_all(x, y, samples.target)
            return loss, terms._asdict()
        ce = self.cross_entropy(x, samples.target)
        loss, terms = self._of_all(standardize(x), standardize(y), samples.target)
        # Turns the mean over a process's own samples into its part of the mean over all samples.
        own = self.ce_weight * (samples.share if self.spans_processes else 1.0) * ce
        return own + loss, terms._replace(ce=ce.detach())._asdict()

    def _of_all(self, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Any]:
        """The loss and its terms, over all processes if it spans them."""
        group = dist.group.WORLD if self.spans_processes else None
        if self.loss.group is not group:
            self.loss.group = group
        return self.loss(x, y, target)
