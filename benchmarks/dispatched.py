"""Counts launches, bytes and flops of PyTorch for a loss and its gradient without custom kernels.

Eager: every operation dispatched in forward and backward, except views, is one launch; it reads each element of its inputs
once and writes its outputs. Compiled: the same for the nodes that Inductor has left after fusion. Flops are those of matrix
products, by the formulas of ``torch.utils.flop_counter``.

Both counts are low for a GPU, where one operation may run several kernels, as ``logsumexp`` does. Inductor schedules for the
CPU here, where it also fuses consecutive loops that share only their outermost range.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch._inductor.config
import torch.fx
import torch.nn.functional as F
from torch import Tensor
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from bickd_kernels import reference

Loss = Callable[..., Tensor]


_SETTINGS = {"fx_graph_cache": False, "cpp.simdlen": 1}
"""Inductor settings: a cached graph would not be scheduled again, and scalar loops need no test for vector instructions."""


class Operation(NamedTuple):
    """One launch: the bytes that it reads and writes, and the flops of its matrix products."""

    name: str
    moved: int
    flops: int


def definition(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """``bickd_loss`` with default options as bare formulas: in float32, without argument checks or edge-case handling."""
    x, y = student.float(), teacher.float()
    sides = reference.class_wise(x, y, 2.0, 0.2) + reference.sample_wise(x, y, target, 2.0, 0.2)
    return 0.1 * F.cross_entropy(x, target) + 0.9 * reference.kd(x, y, 4.0) + 4.0 * sides


def make_inputs(samples: int, classes: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(B, C)`` and targets ``(B,)``; the student's logits require a gradient."""
    student, teacher = (torch.randn(samples, classes, dtype=dtype, device=device) for _ in range(2))
    return student.requires_grad_(), teacher, torch.arange(samples, device=device) % classes


def count_eager(loss: Loss, *inputs: Tensor) -> list[Operation]:
    """The operations of ``loss(*inputs)`` and of its backward; inputs on the ``meta`` device suffice."""
    with _Dispatched() as dispatched:
        loss(*inputs).backward()
    return dispatched.operations


def count_compiled(loss: Loss, *inputs: Tensor) -> list[Operation]:
    """The nodes of ``torch.compile(loss)`` and of its backward.

    The loops that Inductor generates are neither compiled nor run; only external calls, such as matrix products, run.
    Everything else that this process has compiled is discarded, and recompiled when it is called again.

    Args:
        loss: the function.
        inputs: tensors on the CPU.
    """
    operations: list[Operation] = []
    codegen = GraphLowering.codegen

    def counting(self: Any) -> Any:
        code = codegen(self)
        moved = {node: node.get_read_write_buffers_sizes() for node in self.scheduler.nodes}
        operations.extend(Operation(node.get_name(), moved[node], _node_flops(node)) for node in moved if moved[node])
        return code

    torch.compiler.reset()
    with (
        torch._inductor.config.patch(_SETTINGS),
        mock.patch.object(GraphLowering, "codegen", counting),
        mock.patch.object(AsyncCompile, "cpp_pybinding", return_value=_nothing),
    ):
        torch.compile(loss, fullgraph=True, dynamic=False)(*inputs).backward()
    torch.compiler.reset()
    return operations


def _nothing(*_: Any) -> None:
    """Replaces a compiled loop."""


class _Dispatched(TorchDispatchMode):
    """Records the operations dispatched within it, except views."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
        if not is_view:
            # A tensor passed twice is read once.
            read = {id(leaf): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            moved = sum(_distinct_bytes(tensor) for tensor in [*read.values(), *written])
            self.operations.append(Operation(str(func), moved, _product_flops(func, args, kwargs, result)))
        return result


def _distinct_bytes(tensor: Tensor) -> int:
    """The bytes of a tensor's elements; an expanded dimension repeats the same memory."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= 1 if stride == 0 and size > 0 else size
    return elements * tensor.element_size()


def _product_flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """The flops of an operation, if it is a matrix product."""
    formula = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result))


def _node_flops(node: Any) -> int:
    """The flops of an Inductor node, if it calls a matrix product."""
    origin = node.node.get_origin_node() if node.is_extern() else None
    if origin is None or not isinstance(origin.target, torch._ops.OpOverload):
        return 0
    args, kwargs = tree_map(_value, (origin.args, origin.kwargs))
    return _product_flops(origin.target, args, kwargs, _value(origin))


def _value(argument: Any) -> Any:
    """The fake tensor that a graph node stands for."""
    return argument.meta["val"] if isinstance(argument, torch.fx.Node) else argument
