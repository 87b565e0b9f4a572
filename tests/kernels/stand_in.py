"""Context managers that complete ttsem's pretence that CPU tensors are on a GPU."""

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
    """Restores Triton's driver and the functions of ``torch.cuda`` on exit, also after an exception.

    ttsem replaces both and does not restore them, so that later code in the process would find a GPU.
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
    """Extends the pretence to the operators of the package.

    PyTorch turns ttsem's function mode off inside an operator, so the functions behind the operators are called directly.
    """
    with (
        mock.patch.object(operator, "loss", operator._differentiable_loss),
        mock.patch.object(operator, "loss_and_gradient", operator._compute),
        mock.patch.object(operator, "scaled_gradient", operator._scale),
    ):
        yield


@contextmanager
def gpu_in_backward() -> Iterator[None]:
    """Extends the pretence to ``backward``.

    ttsem's function mode is off inside the functions that it handles, so it must not handle those that run ``backward``.
    """

    def backward(self: Tensor, gradient: Tensor | None = None, *arguments: Any, **options: Any) -> None:
        torch.autograd.backward(self, gradient, *arguments, **options)

    with (
        mock.patch.object(Tensor, "backward", backward),
        mock.patch.object(torch.autograd, "has_torch_function", return_value=False),
    ):
        yield
