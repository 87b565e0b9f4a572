"""What ttsem leaves to do where it lets tensors of the CPU stand in for those of a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton.runtime import driver
from ttsem import _fakedriver

from bickd_kernels import operator


@contextmanager
def gpu_restored() -> Iterator[None]:
    """On exit, also by an exception, Triton has the driver and ``torch.cuda`` the functions that they had on entry.

    ttsem replaces both and leaves them replaced, so that everything that runs later in the process would believe in a GPU.
    """
    active = driver._active
    functions = dict(vars(torch.cuda))
    try:
        yield
    finally:
        driver._active = active
        for name in _fakedriver._REAL_TORCH_CUDA:
            setattr(torch.cuda, name, functions[name])


@contextmanager
def gpu_in_operators() -> Iterator[None]:
    """Within it, tensors say in the operators of the package too that they are on a GPU, and ``torch.empty`` is NaN there.

    PyTorch turns ttsem's function mode off within an operator. So what the operators are made of is called without them.
    """
    with (
        mock.patch.object(operator, "loss", operator._differentiable_loss),
        mock.patch.object(operator, "loss_and_gradient", operator._compute),
        mock.patch.object(operator, "scaled_gradient", operator._scale),
    ):
        yield


@contextmanager
def gpu_in_backward() -> Iterator[None]:
    """Within it, tensors say in ``backward`` too that they are on a GPU, and ``torch.empty`` is NaN there too.

    ttsem does both in a function mode of PyTorch, which is off within the functions that it handles. So these must not be
    handled.
    """

    def backward(self: Tensor, gradient: Tensor | None = None, *arguments: Any, **options: Any) -> None:
        torch.autograd.backward(self, gradient, *arguments, **options)

    with (
        mock.patch.object(Tensor, "backward", backward),
        mock.patch.object(torch.autograd, "has_torch_function", return_value=False),
    ):
        yield
