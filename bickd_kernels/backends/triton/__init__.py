"""The losses and their gradient in fused Triton kernels; README.md has the data flow and the reading order."""

import contextlib

import torch
from torch import Tensor

from bickd_kernels.arguments import Settings
from bickd_kernels.backends.contract import Batch, Result
from bickd_kernels.backends.triton import stages


def compute(batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
    """Loss, terms and gradient of a batch on a GPU, in float32."""
    with _on_device_of(batch.student):
        return stages.compute(batch, settings, slice(None) if needs_gradient else None)


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
