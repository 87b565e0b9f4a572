"""``crd``: Tian, Krishnan, Isola, Contrastive Representation Distillation (arXiv 1910.10699), on pooled features.

loss = ce_weight * CE(x, l) + crd_weight * (NCE(s, teacher's bank) + NCE(t, student's bank))

s, t are linear embeddings of the student's and teacher's features, normalized to length 1; a bank holds the last embedding
of every training sample. NCE (see ``memory_bank.MemoryBank``) contrasts a sample's own vector with those of ``negatives``
samples of other classes. It is computed in log space, without the epsilon that the authors' code adds to denominators.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.methods.gathering import rows_of_all
from training.methods.memory_bank import MemoryBank
from training.methods.method import (
    Dimensions,
    Method,
    Samples,
    Terms,
    check_positive,
    check_weights,
    features_of,
    teacher_of,
)
from training.methods.negatives import OtherClasses
from training.models.output import Output


class ContrastiveRepresentationDistillation(Method):
    """Settings as published for CIFAR-100. Every training batch, over all processes, updates the banks, and the first batch
    sets the normalizers; without gradients or in evaluation mode neither changes."""

    needs_features: ClassVar[bool] = True
    takes_probabilities: ClassVar[bool] = False
    search: ClassVar[dict[str, tuple[float, float]]] = {"ce_weight": (0.1, 10.0), "crd_weight": (0.08, 8.0)}
    student_embedding: nn.Linear
    teacher_embedding: nn.Linear
    student_bank: MemoryBank
    teacher_bank: MemoryBank
    other_classes: OtherClasses

    def __init__(
        self,
        *,
        ce_weight: float = 1.0,
        crd_weight: float = 0.8,
        negatives: int = 16384,
        embedding: int = 128,
        momentum: float = 0.5,
        temperature: float = 0.07,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        check_weights(ce_weight=ce_weight, crd_weight=crd_weight)
        check_positive(temperature=temperature)
        for name, value in (("negatives", negatives), ("embedding", embedding)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.ce_weight, self.crd_weight, self.negatives = ce_weight, crd_weight, negatives
        self.embedding, self.momentum, self.temperature = embedding, momentum, temperature

    def bank_bytes(self, count: int) -> int:
        """Bytes of both banks for ``count`` training samples, in float32."""
        return 2 * count * self.embedding * 4

    def set_up(self, dimensions: Dimensions) -> None:
        count = len(dimensions.labels)
        megabytes = self.bank_bytes(count) / 1e6
        print(f"crd: two memory banks of {count} x {self.embedding} float32, {megabytes:.1f} MB", flush=True)
        self.student_embedding = nn.Linear(dimensions.student_features, self.embedding)
        self.teacher_embedding = nn.Linear(dimensions.teacher_features, self.embedding)
        self.student_bank, self.teacher_bank = (
            MemoryBank(count, self.embedding, momentum=self.momentum, temperature=self.temperature) for _ in range(2)
        )
        self.other_classes = OtherClasses(dimensions.labels)

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        ce = self.cross_entropy(student.logits, samples.target)
        s = F.normalize(self.student_embedding(features_of(student, "student")), dim=1)
        t = F.normalize(self.teacher_embedding(features_of(teacher_of(teacher), "teacher")), dim=1)
        crd = self._contrast(s, t, samples)
        return self.ce_weight * ce + self.crd_weight * crd, {"ce": ce.detach(), "crd": crd.detach()}

    def without_samples(self, classes: int, samples: Samples) -> None:
        none = torch.zeros(0, self.embedding, device=samples.target.device)
        self._contrast(none, none, samples)

    def _contrast(self, s: Tensor, t: Tensor, samples: Samples) -> Tensor:
        """NCE of the embeddings ``(B, d)`` of student and teacher; then updates the banks with them."""
        index = torch.cat((samples.index[:, None], self.other_classes(samples.target, self.negatives)), dim=1)
        learns = self.training and torch.is_grad_enabled()
        crd = contrast(self.teacher_bank, s, index, learns) + contrast(self.student_bank, t, index, learns)
        if learns:
            positions, students, teachers = rows_of_all(samples.index, s, t)
            self.student_bank.update(positions, students)
            self.teacher_bank.update(positions, teachers)
        return crd


def contrast(bank: MemoryBank, embeddings: Tensor, index: Tensor, learns: bool) -> Tensor:
    """NCE of ``embeddings`` ``(B, d)`` with the vectors of ``bank`` at ``index`` ``(B, 1 + K)``. If the bank has no
    normalizer yet, estimates it from this batch; with ``learns``, the estimate covers all processes and is stored."""
    if bank.has_normalizer:
        return bank.contrast(embeddings, index, bank.log_normalizer)
    means = bank.log_means(embeddings, index)
    if learns:
        (means,) = rows_of_all(means)
    log_normalizer = means.logsumexp(dim=0) - math.log(len(means) / len(bank.vectors))
    if learns:
        bank.log_normalizer.copy_(log_normalizer)
    return bank.contrast(embeddings, index, log_normalizer)
