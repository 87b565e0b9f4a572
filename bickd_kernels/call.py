"""One loss call: the arguments of a public function in the form that the operator and the reference work on."""

from typing import NamedTuple

from torch import Tensor

from bickd_kernels.backends.contract import Batch, Settings
from bickd_kernels.inputs import check_labels, is_labels
from bickd_kernels.options import Options
from bickd_kernels.processes.group import ProcessGroup


class Call(NamedTuple):
    """Checked options, and tensors that are checked except for the values of labels."""

    student: Tensor
    """Logits ``(B, ..., C)``."""
    teacher: Tensor
    """Logits ``(B, ..., C)``."""
    target: Tensor | None
    """Labels ``(B, ...)``, probabilities ``(B, ..., C)``, or None."""
    name: str
    """The name of the public function."""
    options: Options
    backend: str
    """A resolved name."""
    group: ProcessGroup | None
    """A group of several processes; None if the batch is this process's alone."""

    def checked(self) -> tuple[Batch, Settings]:
        """The input of a backend, with leading dimensions flattened into samples.

        Raises:
            ValueError: on the CPU, a label that is not a class.
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
