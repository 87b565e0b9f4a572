"""A launch on its shortest way: after the first one of a configuration, what Triton compiled is launched directly.

Before a launch, Triton looks at every argument and option to find the kernel that was compiled for such. That takes longer
than the launch. Here it happens once for a configuration, because nothing that it depends on changes within one: sizes and
constants are equal, dtypes are part of the configuration, and tensors are aligned to 16 bytes. ``run`` says when.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import triton
from torch import Tensor
from triton import knobs
from triton.runtime.jit import JITFunction

KNOWN_TRITON = (3, 4) <= tuple(int(part) for part in triton.__version__.split(".")[:2]) <= (3, 8)
"""Whether a compiled kernel takes what ``Launch`` passes to its ``run``. Of another Triton all launches are its own."""


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
    label_smoothing: float


class Varying(NamedTuple):
    """The arguments of kernels that are others in every call; those of a kernel have the names of these."""

    student: Tensor
    """Logits ``(B, C)`` with contiguous rows."""
    teacher: Tensor
    """Logits ``(B, C)`` with contiguous rows."""
    target: Tensor
    """Labels, int64 ``(B,)``, or probabilities of the classes, ``(B, C)`` of a floating dtype, contiguous; any tensor where
    there are none, as no kernel reads it."""
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
        self._run: Callable[..., Any] | None = None

    def search(self, varying: Varying, *, keep: bool) -> None:
        """Launches on the current device what Triton finds or compiles.

        Args:
            varying: the arguments of this call.
            keep: whether Triton would take the same compiled kernel for every call of this configuration.
        """
        named = {name: getattr(varying, name) for name in self._varying}
        compiled = self.kernel[self.programs](**named, **self._named)
        if keep and isinstance(self.kernel, JITFunction):
            self._compiled, self._run = compiled, compiled.run

    def repeat(self, varying: Varying, stream: Any) -> bool:
        """Launches on this stream of the current device what was kept, if something was; whether it did."""
        if self._run is None or self.kernel.pre_run_hooks:
            return False
        arguments = self._in_order.copy()
        for place, field in self._places:
            arguments[place] = varying[field]
        compiled = self._compiled
        # Behind the metadata come that of the launch, and hooks before and after it.
        self._run(*self.programs, stream, compiled.function, compiled.packed_metadata, None, None, None, *arguments)
        return True


def run(launches: Sequence[Launch], varying: Varying, backend: str) -> None:
    """The launches of a call one after the other, on the current device and stream.

    On GPUs of NVIDIA they are direct where tensors are aligned and nobody watches. For AMD, Triton also asks whether a
    tensor is a part of a storage beyond 2 GB.

    Args:
        launches: of a configuration that has the dtypes and the device of ``varying``.
        varying: the arguments of this call.
        backend: ``"cuda"`` or ``"hip"``.
    """
    driver = triton.runtime.driver.active
    direct = KNOWN_TRITON and backend == "cuda" and varying.aligned and not _watched()
    stream = driver.get_current_stream(driver.get_current_device()) if direct else None
    for launch in launches:
        if not (direct and launch.repeat(varying, stream)):
            launch.search(varying, keep=direct)


def _watched() -> bool:
    """Whether somebody sees launches: by hooks, as profilers do, or in place of Triton's method, as simulators do."""
    before, after = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    # A chain of hooks, or in Triton 3.4 a function or None.
    hooked = getattr(before, "calls", before) or getattr(after, "calls", after)
    return bool(hooked) or JITFunction.run.__module__ != JITFunction.__module__
