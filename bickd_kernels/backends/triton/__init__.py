"""The losses and their gradient in fused Triton kernels.

Reading order, which is the order of the launches:

    row_statistics      every sum over the classes of a sample; cross-entropy and KL
    class_statistics    every sum over the samples of a class; the unit vectors
    contrast            similarity_tiles, slope_tiles (with the program of ``loss``): both sides of the bilateral loss
    partial_sums        between the two, where there are many tiles
    logit_gradient      all parts together

``general`` launches them. ``small`` launches ``small_problem``, which runs the same stages in one launch. ``primitives``
holds the device functions that kernels share, ``launch`` the launch parameters.
"""

import contextlib

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Result, Settings
from bickd_kernels.backends.triton import general, launch, small


def compute(batch: Batch, settings: Settings, gradient_rows: slice | None) -> Result:
    """Loss, terms and gradient of a batch on a GPU, in float32."""
    samples, classes = batch.student.shape
    path = small if launch.is_small(samples, classes, launch.current_target()) else general
    with _on_device_of(batch.student):
        result = path.compute(batch, settings, gradient_rows is not None)
    return result if result.gradient is None else result._replace(gradient=result.gradient[gradient_rows])


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)
