"""The losses and their gradient in fused Triton kernels.

Reading order, which is the order of the launches:

    row_statistics      every sum over the classes of a sample; cross-entropy and KL
    class_statistics    every sum over the samples of a class; the unit vectors
    contrast            similarity_tiles, slope_tiles (with the program of ``loss``): both sides of the bilateral loss
    partial_sums        between the two, where there are many tiles
    logit_gradient      all parts together

``general`` launches them. ``primitives`` holds the device functions that kernels share, ``launch`` the launch parameters.
"""

import contextlib

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Batch, Result
from bickd_kernels.backends.triton import general


def compute(batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
    """Loss, terms and gradient of a batch on a GPU, in float32."""
    with _on_device_of(batch.student):
        return general.compute(batch, settings, needs_gradient)


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
