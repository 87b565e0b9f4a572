"""The losses as modules: the arguments of the functions, checked and set once."""

import copy
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self

from bickd_kernels import backends
from bickd_kernels.arguments import BILATERAL_ALONE, NUMBERS, check_group, check_settings
from bickd_kernels.functional import bickd_loss, bilateral_loss
from bickd_kernels.processes.group import ProcessGroup
from bickd_kernels.terms import BicKDTerms, BilateralTerms


class _Loss(nn.Module):
    """What both modules share: ``options``, the keyword arguments of the function, checked."""

    def __init__(self, numbers: dict[str, Any], group: ProcessGroup | None, backend: str) -> None:
        super().__init__()
        values = {name: value for name, value in numbers.items() if name in NUMBERS}
        check_settings({**BILATERAL_ALONE, **values}, ignore_index=numbers["ignore_index"], wanted=0)
        check_group(group)
        backends.check_name(backend)
        self.options = {**numbers, "group": group, "backend": backend}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A group stands for processes: a copy of the module works with the same ones.
        memo[id(self.options["group"])] = self.options["group"]
        copied = memo[id(self)] = self.__new__(type(self))
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class BilateralLoss(_Loss):
    """``bilateral_loss`` as a module; the keyword arguments, defaults and errors are the function's."""

    def __init__(
        self,
        *,
        temperature: float = 2.0,
        contrast_temperature: float = 0.2,
        class_weight: float = 1.0,
        sample_weight: float = 1.0,
        ignore_index: int = -100,
        return_terms: bool = False,
        group: ProcessGroup | None = None,
        backend: str = "auto",
    ) -> None:
        numbers = {
            "temperature": temperature,
            "contrast_temperature": contrast_temperature,
            "class_weight": class_weight,
            "sample_weight": sample_weight,
            "ignore_index": ignore_index,
            "return_terms": return_terms,
        }
        super().__init__(numbers, group, backend)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None
    ) -> Tensor | tuple[Tensor, BilateralTerms]:
        """The loss of logits ``(B, ..., C)`` and, if given, integer targets ``(B, ...)``."""
        return bilateral_loss(student_logits, teacher_logits, target, **self.options)


class BicKDLoss(_Loss):
    """``bickd_loss`` as a module; the keyword arguments, defaults and errors are the function's."""

    def __init__(
        self,
        *,
        kd_temperature: float = 4.0,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        bilateral_weight: float = 4.0,
        temperature: float = 2.0,
        contrast_temperature: float = 0.2,
        class_weight: float = 1.0,
        sample_weight: float = 1.0,
        ignore_index: int = -100,
        return_terms: bool = False,
        group: ProcessGroup | None = None,
        backend: str = "auto",
    ) -> None:
        numbers = {
            "kd_temperature": kd_temperature,
            "ce_weight": ce_weight,
            "kd_weight": kd_weight,
            "bilateral_weight": bilateral_weight,
            "temperature": temperature,
            "contrast_temperature": contrast_temperature,
            "class_weight": class_weight,
            "sample_weight": sample_weight,
            "ignore_index": ignore_index,
            "return_terms": return_terms,
        }
        super().__init__(numbers, group, backend)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor | tuple[Tensor, BicKDTerms]:
        """The loss of logits ``(B, ..., C)`` with integer targets ``(B, ...)``."""
        return bickd_loss(student_logits, teacher_logits, target, **self.options)
