"""``rkd``: Park, Kim, Lu, Cho, Relational Knowledge Distillation (arXiv 1904.05068), on pooled features f.

loss = ce_weight * CE(x, l) + distance_weight * distance + angle_weight * angle
distance = mean_ij smooth_l1(d_ij, d_ij of the teacher),   d_ij = ||f_j - f_i|| / mean of all such norms that are > 0
angle = mean_ijk smooth_l1(cos_ijk, cos_ijk of the teacher),   cos_ijk = u_ij . u_ik,  u_ij = (f_j - f_i) / ||f_j - f_i||

Where features coincide, u_ij is 0, and no gradient flows through them.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.methods.method import Method, Samples, Terms, check_weights, features_of, teacher_of
from training.models.output import Output

BLOCK_ELEMENTS = 2**22
"""Maximum number of elements of a tensor for a block of anchors i; a block has at least one anchor."""

COINCIDING = 1e-14
"""Squared distance, over the sum of the squared lengths, below which two features differ only by rounding."""


class RelationalKnowledgeDistillation(Method):
    """Weights as published for CIFAR-100; uses only the teacher's features."""

    needs_features: ClassVar[bool] = True
    search: ClassVar[dict[str, tuple[float, float]]] = {
        "ce_weight": (0.1, 10.0),
        "distance_weight": (2.5, 250.0),
        "angle_weight": (5.0, 500.0),
    }

    def __init__(
        self,
        *,
        ce_weight: float = 1.0,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        check_weights(ce_weight=ce_weight, distance_weight=distance_weight, angle_weight=angle_weight)
        self.ce_weight, self.distance_weight, self.angle_weight = ce_weight, distance_weight, angle_weight

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        ce = self.cross_entropy(student.logits, samples.target)
        features = features_of(student, "student"), features_of(teacher_of(teacher), "teacher").detach()
        distance, angle = relational_losses(*features)
        loss = self.ce_weight * ce + self.distance_weight * distance + self.angle_weight * angle
        return loss, {"ce": ce.detach(), "distance": distance.detach(), "angle": angle.detach()}


def relational_losses(student: Tensor, teacher: Tensor, block_elements: int = BLOCK_ELEMENTS) -> tuple[Tensor, Tensor]:
    """The distance and angle losses of features ``(B, D)`` and ``(B, E)``; memory holds B x B elements and a few tensors of
    ``block_elements`` at a time, in the backward pass too."""
    count = len(student)
    anchors = max(1, block_elements // count**2)
    inner = inner_products(student), inner_products(teacher)
    blocks = []
    for start in range(0, count, anchors):
        if anchors >= count:
            blocks.append(_relations(*inner, start, anchors))
        else:
            # All intermediate results would hold B x B x B elements, so the backward pass recomputes each block.
            block = checkpoint(_relations, *inner, start, anchors, use_reentrant=False, preserve_rng_state=False)
            blocks.append(block)
    distances, teacher_distances, angles = zip(*blocks, strict=True)
    distance = F.smooth_l1_loss(_by_mean(torch.cat(distances)), _by_mean(torch.cat(teacher_distances)))
    angle = torch.stack(angles).sum() / count**3
    return distance.to(student.dtype), angle.to(student.dtype)


def inner_products(features: Tensor) -> Tensor:
    """``K = f f^T`` ``(B, B)`` of features ``(B, D)`` minus their mean, in float64.

    Distances and angles follow from K alone, at a cost that does not grow with the width. They are differences of its
    entries, which in float64 keep more digits than float32 features have.
    """
    centred = features.double() - features.double().mean(dim=0)
    return centred @ centred.T


def _relations(student: Tensor, teacher: Tensor, start: int, anchors: int) -> tuple[Tensor, Tensor, Tensor]:
    """For a block of ``b`` anchors the distances to all samples ``(b, B)`` in both, and the sum of the angle part."""
    distances, cosines = _distances_and_cosines(student, start, anchors)
    with torch.no_grad():
        teacher_distances, teacher_cosines = _distances_and_cosines(teacher, start, anchors)
    return distances, teacher_distances, F.smooth_l1_loss(cosines, teacher_cosines, reduction="sum")


def _distances_and_cosines(inner: Tensor, start: int, anchors: int) -> tuple[Tensor, Tensor]:
    """``||f_j - f_i||`` ``(b, B)`` and ``cos_ijk`` ``(b, B, B)`` of the anchors i from ``start`` on.

    ||f_j - f_i||^2 = K_jj - 2 K_ij + K_ii,   (f_j - f_i) . (f_k - f_i) = K_jk - K_ij - K_ik + K_ii
    """
    rows, diagonal = inner[start : start + anchors], inner.diagonal()
    own = diagonal[start : start + anchors, None]
    squares = diagonal - 2 * rows + own
    # Neither the root nor the direction is differentiable at 0, so both are constants there.
    same = squares <= COINCIDING * (diagonal + own)
    lengths = torch.where(same, 1.0, squares).sqrt()
    products = inner - rows[:, :, None] - rows[:, None, :] + own[:, :, None]
    reciprocal = torch.where(same, 0.0, 1 / lengths)
    return torch.where(same, 0.0, lengths), products * reciprocal[:, :, None] * reciprocal[:, None, :]


def _by_mean(distances: Tensor) -> Tensor:
    """Distances ``(B, B)`` over the mean of those > 0; zeros stay zeros where all are."""
    positive = (distances > 0).sum()
    return distances / torch.where(positive > 0, distances.sum() / positive.clamp(min=1), 1.0)
