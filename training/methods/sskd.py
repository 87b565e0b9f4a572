"""``sskd``: Xu, Liu, Li, Loy, Knowledge Distillation Meets Self-Supervision (arXiv 2006.07114).

Both networks see every image upright and rotated by 90, 180 and 270 degrees. S is the matrix of cosines between the heads'
outputs for rotated and upright images, 3B x B; the positive of a rotated image is its own upright image.

first stage: CE(S of the teacher, own upright image), trains only the teacher's head
loss = ce_weight * CE(x, l) + kd_weight * KD(x, y, T)                   of the upright images
     + transformed_weight * KD(x, y, T)                                 of the rotated images
     + similarity_weight * KD(S, S of the teacher, similarity_temperature)

KD(x, y, T) is defined in ``kd``. The last term uses the rows of S that the teacher gets right and, of its wrong rows, the
share ``kept_share`` in which the own upright image ranks highest. All logits of rotated images are used, as published.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.methods.kd import divergence
from training.methods.method import (
    Dimensions,
    Method,
    Samples,
    Stage,
    Terms,
    check_positive,
    check_weights,
    features_of,
    teacher_of,
)
from training.models.output import Output

ROTATIONS = 4


class SelfSupervisedKnowledgeDistillation(Method):
    """Weights, temperatures and first stage as published for CIFAR-100. As in the authors' code, the first stage has no
    temperature, and the heads are as wide as the features."""

    needs_features: ClassVar[bool] = True
    cacheable: ClassVar[bool] = False
    search: ClassVar[dict[str, tuple[float, float]]] = {
        "ce_weight": (0.03, 3.0),
        "kd_weight": (0.3, 10.0),
        "transformed_weight": (0.3, 30.0),
        "similarity_weight": (1.0, 100.0),
    }
    student_head: nn.Sequential
    teacher_head: nn.Sequential

    def __init__(
        self,
        *,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        transformed_weight: float = 2.7,
        similarity_weight: float = 10.0,
        temperature: float = 4.0,
        similarity_temperature: float = 0.5,
        kept_share: float = 0.75,
        head_epochs: int = 60,
        head_learning_rate: float = 0.05,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        check_weights(
            ce_weight=ce_weight, kd_weight=kd_weight, transformed_weight=transformed_weight,
            similarity_weight=similarity_weight,
        )  # fmt: skip
        check_positive(
            temperature=temperature, similarity_temperature=similarity_temperature, head_learning_rate=head_learning_rate
        )
        if not 0 <= kept_share <= 1:
            raise ValueError(f"kept_share must be in [0, 1], got {kept_share}")
        if head_epochs < 1:
            raise ValueError(f"head_epochs must be at least 1, without which the head is untrained, got {head_epochs}")
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.transformed_weight, self.similarity_weight = transformed_weight, similarity_weight
        self.temperature, self.similarity_temperature, self.kept_share = temperature, similarity_temperature, kept_share
        self.head_epochs, self.head_learning_rate = head_epochs, head_learning_rate

    def set_up(self, dimensions: Dimensions) -> None:
        self.student_head, self.teacher_head = head(dimensions.student_features), head(dimensions.teacher_features)

    @property
    def first_stage(self) -> Stage:
        """The learning rate falls after 1/2 and 3/4 of the epochs, published as 30 and 45 of 60."""
        marks = {-(-quarters * self.head_epochs // 4) for quarters in (2, 3)}
        milestones = tuple(sorted(mark for mark in marks if mark < self.head_epochs))
        return Stage(self.head_epochs, self.head_learning_rate, milestones)

    def first_stage_parameters(self) -> list[nn.Parameter]:
        return list(self.teacher_head.parameters())

    def first_stage_loss(self, teacher: Output, samples: Samples) -> tuple[Tensor, Terms]:
        scores = similarity(self.teacher_head(features_of(teacher, "teacher").detach()))
        loss = F.cross_entropy(scores, own_upright(scores))
        return loss, {"similarity_ce": loss.detach()}

    def views(self, images: Tensor) -> Tensor:
        """``(4 B, channels, height, width)``: all images upright, then all rotated by 90, by 180, by 270 degrees. After
        rotations by 90 or 270 degrees, non-square images are resized to their original height and width."""
        return torch.cat([_rotated(images, quarters) for quarters in range(ROTATIONS)])

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        teacher = teacher_of(teacher)
        count = len(samples.target)
        x, y = student.logits, teacher.logits
        ce = self.cross_entropy(x[:count], samples.target)
        kd = divergence(x[:count], y[:count], self.temperature)
        transformed = divergence(x[count:], y[count:], self.temperature)
        matched = self._similarity_divergence(features_of(student, "student"), features_of(teacher, "teacher"))
        loss = self.ce_weight * ce + self.kd_weight * kd
        loss = loss + self.transformed_weight * transformed + self.similarity_weight * matched
        terms = {"ce": ce, "kd": kd, "transformed": transformed, "similarity": matched}
        return loss, {name: term.detach() for name, term in terms.items()}

    def _similarity_divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        scores = similarity(self.student_head(student))
        with torch.no_grad():
            teacher_scores = similarity(self.teacher_head(teacher))
            kept = kept_rows(teacher_scores, self.kept_share)
        log_p, log_q = (F.log_softmax(s / self.similarity_temperature, dim=1) for s in (scores, teacher_scores))
        rows = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)
        # The mean is over the kept rows only.
        return self.similarity_temperature**2 * torch.where(kept, rows, 0.0).sum() / kept.sum().clamp(min=1)


def head(width: int) -> nn.Sequential:
    """A two-layer head for features of ``width``."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def similarity(outputs: Tensor) -> Tensor:
    """Cosines ``(3 B, B)`` between the heads' outputs ``(4 B, D)`` for rotated and for upright images."""
    units = F.normalize(outputs, dim=1)
    count = len(units) // ROTATIONS
    return units[count:] @ units[:count].T


def own_upright(scores: Tensor) -> Tensor:
    """The column ``(3 B,)`` of each rotated image's own upright image in scores ``(3 B, B)``."""
    return torch.arange(scores.shape[1], device=scores.device).repeat(ROTATIONS - 1)


def kept_rows(scores: Tensor, share: float) -> Tensor:
    """A mask ``(3 B,)`` of the rows of the teacher's scores ``(3 B, B)`` that the student learns from: all rows that rank
    the own upright image first, and the ``share`` (rounded down) of the others that rank it highest."""
    own = scores.gather(1, own_upright(scores)[:, None])
    rank = (scores > own).sum(dim=1)
    wrong = (rank > 0).sum()
    count = len(scores) - wrong + (share * wrong.double()).floor().long()
    place = torch.argsort(torch.argsort(rank, stable=True))
    return place < count


def _rotated(images: Tensor, quarters: int) -> Tensor:
    rotated = torch.rot90(images, quarters, dims=(2, 3))
    if rotated.shape == images.shape:
        return rotated
    return F.interpolate(rotated, size=images.shape[2:], mode="bilinear", align_corners=False)
