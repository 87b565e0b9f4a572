"""``ce``: cross-entropy alone, ``mean_a -log softmax(x_a)[l_a]``; how teachers and plain students are trained."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from training.methods.method import Method, Terms


@dataclass(frozen=True)
class CrossEntropy(Method):
    """Needs no teacher and has no settings."""

    needs_teacher: ClassVar[bool] = False

    def __call__(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> tuple[Tensor, Terms]:
        loss = F.cross_entropy(student, target)
        return loss, {"ce": loss.detach()}
