"""The loss as PyTorch operators: the interface of every backend to autograd, compilers and exporters.

    loss                called by the public functions; has a first derivative with respect to the student's logits
    loss_and_gradient   runs a backend: the gradient is computed together with the loss, as a by-product
    scaled_gradient     the backward pass: this gradient times the upstream gradient

A compiler sees each of them as one opaque node. It therefore does not recompile for another batch size or for an option that
follows a schedule, and a backend may inspect the values that it computes with.

They are plain operators with an ``autograd.Function`` instead of ``torch.library.custom_op`` with ``register_autograd``:
both compile to the same code, but the host time of a call and its backward is 0.4 times as long.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bickd_kernels.backends import choice
from bickd_kernels.backends.contract import Result, compute_dtype
from bickd_kernels.call import Call
from bickd_kernels.options import KINDS, NUMBERS, Options, check_is_number
from bickd_kernels.processes import global_batch
from bickd_kernels.processes.agreement import failure_told_to
from bickd_kernels.processes.group import ProcessGroup, group_of

_library = torch.library.Library("bickd_kernels", "DEF")
_CALL = (
    "Tensor student, Tensor teacher, Tensor? target, Tensor numbers, str name, int ignore_index, bool return_terms, "
    "str? positives, str similarity, str backend, str group, bool compare_ranks"
)
# The tag keeps these out of a compiler's CUDA graphs, as they read numbers on the host. Older PyTorch has no such tag.
_TAGS = (torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else ()
_library.define(f"loss({_CALL}) -> (Tensor loss, Tensor terms)", tags=_TAGS)
_library.define(
    f"loss_and_gradient({_CALL}, bool needs_gradient) -> (Tensor loss, Tensor terms, Tensor gradient)", tags=_TAGS
)
_library.define("scaled_gradient(Tensor gradient, Tensor upstream, ScalarType dtype) -> Tensor")

loss = torch.ops.bickd_kernels.loss.default
"""Loss and terms for checked arguments; see ``flattened``.

Returns:
    The loss, a scalar in the compute dtype, and ``(4,)`` unweighted terms in the order of ``contract.Weights``, 0 where
    not computed.
"""

loss_and_gradient = torch.ops.bickd_kernels.loss_and_gradient.default
"""Also returns ``d loss / d student`` in the compute dtype and the student's shape; empty where it is not needed."""

scaled_gradient = torch.ops.bickd_kernels.scaled_gradient.default
"""``gradient * upstream`` in ``dtype``, the student's dtype.

The gradient is stored in the compute dtype: in float16, the gradient of a mean over a large batch would underflow before a
gradient scaler can act on it.
"""


def flattened(options: Options, name: str, backend: str) -> tuple[Any, ...]:
    """The options as positional operator arguments, which follow the tensors.

    Args:
        options: of the loss ``name``.
        name: the name of the public function.
        backend: a resolved name.
    """
    group = options.group_of_several
    return (
        _packed(options, NUMBERS[name]),
        name,
        options.ignore_index,
        options.return_terms,
        options.positives,
        options.similarity,
        backend,
        "" if group is None else group.group_name,
        options.compare_ranks,
    )


def _packed(options: Options, names: tuple[str, ...]) -> Tensor:
    """The temperatures and weights, float64 on the host."""
    values = [getattr(options, name) for name in names]
    if torch.compiler.is_compiling():
        for name, value in zip(names, values, strict=True):
            check_is_number(name, value)
        # A number passed to an operator is a graph constant, so a schedule would recompile in every step. A number that
        # multiplies a tensor stays a variable.
        one = torch.ones((), dtype=torch.float64, device="cpu")
        return torch.stack([one * value for value in values])
    return torch.tensor(values, dtype=torch.float64, device="cpu")


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
        value, terms, gradient = loss_and_gradient(student, *call, True)
        ctx.mark_non_differentiable(terms)
        ctx.set_materialize_grads(False)
        ctx.dtype, ctx.constants = student.dtype, len(call)
        ctx.save_for_backward(gradient)
        return value, terms

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        # Autograd treats the saved gradient as a constant, so a second derivative would be silently wrong. A compiler traces
        # this function with gradients enabled, and refuses second derivatives itself.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "this loss has no second derivative: call backward or autograd.grad without create_graph=True, or use "
                'backend="reference", which autograd can differentiate twice'
            )
        (gradient,) = ctx.saved_tensors
        # Without an upstream gradient, the differentiated value does not depend on the loss.
        result = None if upstream is None else scaled_gradient(gradient, upstream, ctx.dtype)
        return result, *[None] * ctx.constants


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


class _Arguments(NamedTuple):
    """The arguments of ``loss_and_gradient``."""

    student: Tensor
    teacher: Tensor
    target: Tensor | None
    numbers: Tensor
    """The numeric options of the loss in the order of ``options.NUMBERS``, float64 on the host."""
    name: str
    ignore_index: int
    return_terms: bool
    positives: str | None
    similarity: str
    backend: str
    group: str
    """The name of the process group; empty if there is none."""
    compare_ranks: bool
    needs_gradient: bool

    def call(self, group: ProcessGroup | None) -> Call:
        """The call, with options checked here: a compiler cannot check numbers that it does not know while tracing."""
        options = _options(
            self.name,
            self.ignore_index,
            self.return_terms,
            self.positives,
            self.similarity,
            self.compare_ranks,
            *self.numbers.tolist(),
        )
        return Call(self.student, self.teacher, self.target, self.name, options, self.backend, group)


@lru_cache(maxsize=256, typed=True)
def _options(
    name: str,
    ignore_index: int,
    return_terms: bool,
    positives: Any,
    similarity: Any,
    compare_ranks: bool,
    *numbers: float,
) -> Options:
    options: dict[str, Any] = dict(zip(NUMBERS[name], numbers, strict=True))
    options |= {"ignore_index": ignore_index, "return_terms": return_terms, "compare_ranks": compare_ranks}
    return KINDS[name](**options, positives=positives, similarity=similarity)


def _compute(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    given = _Arguments(*arguments)
    device = given.student.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            result = _result(given)
    else:
        result = _result(given)
    if result.gradient is None:
        return result.loss, result.terms, given.student.new_empty(0)
    return result.loss, result.terms, result.gradient.reshape(given.student.shape)


def _result(given: _Arguments) -> Result:
    if given.group:
        group = group_of(given.group)
        with failure_told_to(group if given.compare_ranks else None):
            call = given.call(group)
        return global_batch.compute(call, given.needs_gradient)
    batch, settings = given.call(None).checked()
    if batch.student.numel() == 0 or not any(settings.computed):
        value, terms, gradient = _empty_results(*given)
        return Result(value.zero_(), terms.zero_(), gradient.zero_() if given.needs_gradient else None)
    rows = slice(0, len(batch.student)) if given.needs_gradient else None
    return choice.load(given.backend).compute(batch, settings, rows)


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
