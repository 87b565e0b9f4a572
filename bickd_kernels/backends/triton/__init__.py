"""The losses and their gradient in fused Triton kernels; README.md has the data flow and the reading order."""

import contextlib

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Result, Settings
from bickd_kernels.backends.triton import stages


def compute(batch: Batch, settings: Settings, gradient_rows: slice | None) -> Result:
    """Loss and terms of a batch on a GPU, and the gradient of the samples ``gradient_rows``, if any, in float32."""
    with _on_device_of(batch.student):
        return stages.compute(batch, settings, gradient_rows)


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Makes the tensor's device current, because Triton launches on the current device."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
