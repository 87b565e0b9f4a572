"""A launch on its shortest way: after the first one of a configuration, what Triton compiled is launched directly.

Before a launch, Triton looks at every argument and option to find the kernel that was compiled for such. That takes longer
than the launch. Here it happens once for a configuration, because nothing that it depends on changes within one: sizes and
constants are equal, dtypes are part of the configuration, and tensors are aligned to 16 bytes. ``direct`` says when.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
from torch import Tensor
from triton.runtime.jit import JITFunction


class LogitSizes(NamedTuple):
    """Sizes of logits as kernels take them. What ends in ``_v`` is in units of ``VECTOR`` elements.

    Triton derives the width of loads from what divides an offset, and sees of a run-time number only whether 16 does.
    """

    samples: int
    classes_v: int
    student_stride_v: int
    """Between two samples."""
    teacher_stride_v: int


class Numbers(NamedTuple):
    """The options of a loss that are numbers. The weight of a term that is not computed is 0."""

    temperature: float
    contrast_temperature: float
    kd_temperature: float
    ce_weight: float
    kd_weight: float
    class_wise_weight: float
    sample_wise_weight: float


class Varying(NamedTuple):
    """The arguments of kernels that are others in every call; those of a kernel have the names of these."""

    student: Tensor
    """Logits ``(B, C)`` with contiguous rows."""
    teacher: Tensor
    """Logits ``(B, C)`` with contiguous rows."""
    target: Tensor
    """int64 ``(B,)``; any tensor where there are none, as no kernel reads it."""
    scratch: Tensor
    """float32, as ``scratch.buffers`` lays it out."""
    loss: Tensor
    """float32, a scalar."""
    terms: Tensor
    """float32 ``(4,)``."""
    gradient: Tensor
    """float32, a row of ``C`` for each sample that it is wanted of; any tensor where it is not wanted."""
    numbers: Numbers

    @property
    def aligned(self) -> bool:
        """Whether every tensor begins at a multiple of 16 bytes."""
        student, teacher, target, scratch, loss, terms, gradient, _ = self
        addresses = student.data_ptr() | teacher.data_ptr() | target.data_ptr() | scratch.data_ptr()
        return (addresses | loss.data_ptr() | terms.data_ptr() | gradient.data_ptr()) % 16 == 0


class Launch:
    """One of the launches of a configuration."""

    def __init__(
        self, kernel: Any, programs: Sequence[int], arguments: dict[str, Any], options: dict[str, int] | None = None
    ) -> None:
        """Args:
        kernel: a function of ``triton.jit``, tuned by Triton perhaps.
        programs: the grid.
        arguments: all that ``Varying`` does not have, by name.
        options: warps and stages.
        """
        self.kernel = kernel
        self.programs = (*programs, 1, 1)[:3]
        self._named = {**arguments, **(options or {})}
        self._varying = [name for name in kernel.arg_names if name in Varying._fields]
        self._in_order = [arguments.get(name) for name in kernel.arg_names]
        self._places = [(kernel.arg_names.index(name), Varying._fields.index(name)) for name in self._varying]
        self._compiled: Any = None

    def __call__(self, varying: Varying, *, stream: Any, direct: bool) -> None:
        """Launches on the current device.

        Args:
            varying: the arguments of this call.
            stream: the current stream, for a direct launch.
            direct: whether Triton would take the compiled kernel of the launch before.
        """
        if direct and self._compiled is not None:
            arguments = self._in_order.copy()
            for place, field in self._places:
                arguments[place] = varying[field]
            # Triton's own way to launch what it compiled: hooks of profilers are called as always.
            self._compiled[self.programs](*arguments, stream=stream)
            return
        named = {name: getattr(varying, name) for name in self._varying}
        compiled = self.kernel[self.programs](**named, **self._named)
        if direct and isinstance(self.kernel, JITFunction) and not self.kernel.pre_run_hooks:
            self._compiled = compiled


def run(launches: Sequence[Launch], varying: Varying, backend: str) -> None:
    """The launches of a call one after the other, on the current device and stream.

    Args:
        launches: of a configuration that has the dtypes and the device of ``varying``.
        varying: the arguments of this call.
        backend: ``"cuda"`` or ``"hip"``.
    """
    driver = triton.runtime.driver.active
    # For AMD, Triton also asks whether a tensor is a part of a storage beyond 2 GB. Who has replaced the method that
    # launches, as simulators do, wants to see every launch.
    direct = backend == "cuda" and JITFunction.run.__module__ == JITFunction.__module__ and varying.aligned
    stream = driver.get_current_stream(driver.get_current_device()) if direct else None
    for launch in launches:
        launch(varying, stream=stream, direct=direct)
