"""The loss as operators of PyTorch: what every backend promises to autograd, to compilers and to exporters.

    loss                what the public functions call; has a first derivative by the student's logits
    loss_and_gradient   a backend's work: the gradient is formed with the loss, of which it is a by-product
    scaled_gradient     backward: that gradient times the upstream one

A compiler sees each of them as one opaque node. So it compiles no second graph for a batch of another size or an option that
follows a schedule, and a backend may look at the values that it computes with.

They are bare operators with an ``autograd.Function`` rather than ``torch.library.custom_op`` with ``register_autograd``: a
compiler makes the same of both, and the host's part of a call and its backward is 0.4 of the other's.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bickd_kernels import backends
from bickd_kernels.arguments import NUMBERS, Settings, check_labels, check_settings
from bickd_kernels.backends.contract import compute_dtype, flattened

_library = torch.library.Library("bickd_kernels", "DEF")
_CALL = "(Tensor student, Tensor teacher, Tensor? target, Tensor numbers, int ignore_index, int wanted, str backend"
_library.define(f"loss{_CALL}) -> (Tensor loss, Tensor terms)")
_library.define(f"loss_and_gradient{_CALL}, bool needs_gradient) -> (Tensor loss, Tensor terms, Tensor gradient)")
_library.define("scaled_gradient(Tensor gradient, Tensor upstream, ScalarType dtype) -> Tensor")

loss = torch.ops.bickd_kernels.loss.default
"""Loss and terms.

Args:
    student, teacher: logits ``(B, ..., C)``.
    target: int64 ``(B, ...)``, or None.
    numbers: the temperatures and weights in the order of ``arguments.NUMBERS``, float64 ``(8,)`` on the host.
    ignore_index: the target of samples to leave out.
    wanted: the terms to compute whatever their weight, as in ``arguments.check_settings``.
    backend: a resolved name.

Returns:
    The loss, a scalar in the compute dtype, and ``(4,)`` unweighted terms; what is not computed is 0.
"""

loss_and_gradient = torch.ops.bickd_kernels.loss_and_gradient.default
"""The same, and ``d loss / d student`` in the compute dtype, of the student's shape; empty where it is not needed."""

scaled_gradient = torch.ops.bickd_kernels.scaled_gradient.default
"""``gradient * upstream`` in ``dtype``, the student's.

The gradient is kept in the compute dtype, because the finished gradient of a mean over a large batch underflows in float16
before a gradient scaler has had its turn.
"""


def packed(numbers: dict[str, float]) -> Tensor:
    """The temperatures and weights as the operators take them."""
    values = [numbers[name] for name in NUMBERS]
    if torch.compiler.is_compiling():
        # A number that is an argument of an operator is a constant of the graph, and a schedule would compile one a step.
        # One that a tensor is multiplied by stays a variable.
        one = torch.ones((), dtype=torch.float64, device="cpu")
        return torch.stack([one * value for value in values])
    return torch.tensor(values, dtype=torch.float64, device="cpu")


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
        value, terms, gradient = loss_and_gradient(student, *call, True)
        ctx.mark_non_differentiable(terms)
        ctx.dtype, ctx.arguments = student.dtype, 1 + len(call)
        ctx.save_for_backward(gradient)
        return value, terms

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        (gradient,) = ctx.saved_tensors
        return scaled_gradient(gradient, upstream, ctx.dtype), *[None] * (ctx.arguments - 1)


def refuse_second_derivative() -> None:
    """Raises in a backward whose result autograd would differentiate: what it scales is a constant there.

    Raises:
        RuntimeError: ``create_graph=True``. A compiler traces with gradients enabled, and refuses second derivatives itself.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "this loss has no second derivative: call backward or autograd.grad without create_graph=True, or use "
            'backend="reference", which autograd can differentiate twice'
        )


def _differentiable_loss(student: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    if not (torch.is_grad_enabled() and student.requires_grad):
        return _plain_loss(student, *call)
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            'torch.func cannot differentiate this loss: use torch.autograd, or torch.func.grad with backend="reference"'
        )
    return _Loss.apply(student, *call)


def _plain_loss(*call: Any) -> tuple[Tensor, Tensor]:
    value, terms, _ = loss_and_gradient(*call, False)
    return value, terms


class _Request(NamedTuple):
    """A call of ``loss_and_gradient``."""

    student: Tensor
    teacher: Tensor
    target: Tensor | None
    numbers: Tensor
    ignore_index: int
    wanted: int
    backend: str
    needs_gradient: bool

    @property
    def settings(self) -> Settings:
        """Checked, as a compiler could not check numbers that it did not know."""
        return check_settings(
            dict(zip(NUMBERS, self.numbers.tolist(), strict=True)), ignore_index=self.ignore_index, wanted=self.wanted
        )


def _compute(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    request = _Request(*arguments)
    if request.target is not None:
        check_labels(request.target, request.student.shape[-1], request.ignore_index)
    device = request.student.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _computed_by_backend(request)
    return _computed_by_backend(request)


def _computed_by_backend(request: _Request) -> tuple[Tensor, Tensor, Tensor]:
    student, settings = request.student, request.settings
    if student.numel() == 0 or settings.nothing_computed:
        value, terms, gradient = _empty_results(*request)
        return value.zero_(), terms.zero_(), gradient.zero_()
    batch = flattened(student, request.teacher, request.target)
    result = backends.load(request.backend).compute(batch, settings, request.needs_gradient)
    gradient = student.new_empty(0) if result.gradient is None else result.gradient.reshape(student.shape)
    return result.loss, result.terms, gradient


def _empty_results(student: Tensor, teacher: Tensor, *call: Any) -> tuple[Tensor, Tensor, Tensor]:
    needs_gradient = call[-1]
    dtype = compute_dtype(student, teacher)
    gradient = student.new_empty(student.shape if needs_gradient else (0,), dtype=dtype)
    return student.new_empty((), dtype=dtype), student.new_empty(4, dtype=dtype), gradient


def _scale(gradient: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.mul(gradient, upstream, out=torch.empty_like(gradient, dtype=dtype))


_library.impl("loss", _differentiable_loss, "Autograd")
_library.impl("loss", _plain_loss, "CompositeExplicitAutograd")
_library.impl("loss_and_gradient", _compute, "CompositeExplicitAutograd")
_library.impl("scaled_gradient", _scale, "CompositeExplicitAutograd")
torch.library.register_fake("bickd_kernels::loss", lambda *call: _empty_results(*call, False)[:2])
torch.library.register_fake("bickd_kernels::loss_and_gradient", _empty_results)
torch.library.register_fake(
    "bickd_kernels::scaled_gradient", lambda gradient, upstream, dtype: torch.empty_like(gradient, dtype=dtype)
)
