"""The losses as modules: each option of the functions is checked once and becomes an attribute."""

import copy
import inspect
from dataclasses import fields, replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from typing_extensions import Unpack

from bickd_kernels import functional
from bickd_kernels.options import NAMES, BicKDArguments, BilateralArguments, Options, make_options
from bickd_kernels.terms import BicKDTerms, BilateralTerms

_Module = TypeVar("_Module", bound="_Loss")


class _Loss(nn.Module):
    """What both modules share: the record ``options``, whose fields can be read and assigned as attributes."""

    function: ClassVar[str]
    options: Options

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = make_options(self.function, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.options, name) if name in NAMES[self.function] else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in NAMES[self.function]:
            name, value = "options", replace(self.options, **{name: value})
        super().__setattr__(name, value)

    def __deepcopy__(self: _Module, memo: dict[int, Any]) -> _Module:
        # A group stands for processes, which cannot be copied: the copied module keeps the same group.
        memo[id(self.options.group)] = self.options.group
        copied = memo[id(self)] = self.__new__(type(self))
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def extra_repr(self) -> str:
        return ", ".join(f"{option.name}={getattr(self.options, option.name)!r}" for option in fields(self.options))


class BilateralLoss(_Loss):
    """``bilateral_loss`` as a module, with the function's keyword arguments, defaults and errors.

    Each option is an attribute that a schedule may assign; the new value is checked: ``criterion.temperature = 1.5``.
    """

    function = "bilateral_loss"

    def __init__(self, *, return_terms: bool = False, **options: Unpack[BilateralArguments]) -> None:
        super().__init__(return_terms=return_terms, **options)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None
    ) -> Tensor | tuple[Tensor, BilateralTerms]:
        """The loss of logits ``(B, ..., C)`` and, if given, labels ``(B, ...)`` or probabilities ``(B, ..., C)``."""
        return functional.evaluate(self.function, self.options, student_logits, teacher_logits, target)


class BicKDLoss(_Loss):
    """``bickd_loss`` as a module, with its keyword arguments, defaults and errors; each option is an attribute."""

    function = "bickd_loss"

    def __init__(self, *, return_terms: bool = False, **options: Unpack[BicKDArguments]) -> None:
        super().__init__(return_terms=return_terms, **options)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor | tuple[Tensor, BicKDTerms]:
        """The loss of logits ``(B, ..., C)`` with labels ``(B, ...)`` or probabilities ``(B, ..., C)``."""
        return functional.evaluate(self.function, self.options, student_logits, teacher_logits, target)


def _signature(module: type[_Loss]) -> inspect.Signature:
    """The options of the function and their defaults, as a signature."""
    parameters = inspect.signature(getattr(functional, module.function)).parameters.values()
    return inspect.Signature([parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY])


BilateralLoss.__signature__ = _signature(BilateralLoss)  # type: ignore[attr-defined]
BicKDLoss.__signature__ = _signature(BicKDLoss)  # type: ignore[attr-defined]
