"""What a method is: a loss of one step, and what it needs for it."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

Terms = dict[str, Tensor]


class Method(ABC):
    """A loss of student logits, teacher logits and targets."""

    needs_teacher: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> tuple[Tensor, Terms]:
        """The loss, a scalar with a gradient, and its unweighted terms by name, detached.

        Args:
            student: ``(B, C)`` logits.
            teacher: ``(B, C)`` logits without a gradient, or None where ``needs_teacher`` is False.
            target: ``(B,)`` int64.
        """
