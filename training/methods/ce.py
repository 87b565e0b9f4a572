"""``ce``: cross-entropy alone, ``mean_a -log softmax(x_a)[l_a]``; how teachers and plain students are trained."""

from typing import ClassVar

from torch import Tensor

from training.methods.method import Method, Samples, Terms, check_weights
from training.models.output import Output


class CrossEntropy(Method):
    """Needs no teacher; ``ce_weight`` lets tuning vary the effective step size, as it does for the other methods."""

    needs_teacher: ClassVar[bool] = False
    search: ClassVar[dict[str, tuple[float, float]]] = {"ce_weight": (0.1, 10.0)}

    def __init__(self, *, ce_weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)
        check_weights(ce_weight=ce_weight)
        self.ce_weight = ce_weight

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        loss = self.cross_entropy(student.logits, samples.target)
        return self.ce_weight * loss, {"ce": loss.detach()}
