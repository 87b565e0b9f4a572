"""The losses and their gradient in fused Triton kernels.

Reading order, which is the order of the launches:

    row_statistics      every sum over the classes of a sample; cross-entropy and KL
    class_statistics    every sum over the samples of a class; the unit vectors
    contrast            similarity_tiles, slope_tiles (with the program of ``loss``): both sides of the bilateral loss
    partial_sums        between the two, where there are many tiles
    logit_gradient      in backward: all parts together, times the upstream gradient

``general`` launches them. ``small`` launches ``small_problem``, which runs the same stages in one launch. ``primitives``
holds the device functions that kernels share, ``launch`` the launch parameters.
"""

import contextlib
import operator

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Batch, Result
from bickd_kernels.backends.triton import general, launch, small


def forward(batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
    """Loss and terms of a batch on a GPU, in float32."""
    # The shape decides on constants of the kernels: a compiler that traces this has to know it as numbers.
    samples, classes = (operator.index(size) for size in batch.student.shape)
    path = small if launch.is_small(samples, classes, launch.current_target()) else general
    with _on_device_of(batch.student):
        return path.forward(batch, settings, needs_gradient)


def backward(saved: tuple[Tensor, ...], upstream: Tensor, settings: Settings, dtype: torch.dtype) -> Tensor:
    """The gradient by the student's logits, in their dtype."""
    if len(saved) == 1:
        return small.backward(saved, upstream, dtype)
    with _on_device_of(saved[0]):
        return general.backward(saved, upstream, settings, dtype)


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device; compiled code sees to that itself."""
    if torch.compiler.is_compiling() or not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
