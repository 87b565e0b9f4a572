"""A loss to compute: what the operator and the reference make of the arguments of a public function."""

from typing import NamedTuple

from torch import Tensor

from bickd_kernels.backends.contract import Batch, Settings
from bickd_kernels.inputs import check_labels, is_labels
from bickd_kernels.options import Options
from bickd_kernels.processes.group import ProcessGroup


class Call(NamedTuple):
    """Checked tensors, but for the values of labels, and checked options."""

    student: Tensor
    """Logits ``(B, ..., C)``."""
    teacher: Tensor
    """Logits ``(B, ..., C)``."""
    target: Tensor | None
    """Labels ``(B, ...)``, probabilities ``(B, ..., C)``, or None."""
    name: str
    """Of the public function."""
    options: Options
    backend: str
    """A resolved name."""
    group: ProcessGroup | None
    """Of several processes; None: the batch is this process's alone."""

    def checked(self) -> tuple[Batch, Settings]:
        """What a backend gets; leading dimensions are samples.

        Raises:
            ValueError: on the CPU a label that names no class.
        """
        student, teacher, target = self.student, self.teacher, self.target
        classes = student.shape[-1]
        labels = target is not None and is_labels(target)
        if target is not None and labels:
            check_labels(target, classes, self.options.ignore_index)
            target = target.long()
        if student.dim() > 2:
            student, teacher = student.reshape(-1, classes), teacher.reshape(-1, classes)
            if target is not None:
                target = target.reshape(-1) if labels else target.reshape(-1, classes)
        return Batch(student, teacher, target), self.options.settings
