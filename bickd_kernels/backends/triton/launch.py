"""Direct launches: after the first launch of a configuration, the compiled kernel is launched without Triton's lookup.

For every launch, Triton inspects all arguments and options to find the matching compiled kernel, which takes longer than the
launch itself. Here the lookup happens once per configuration, because nothing that it depends on changes within one: sizes
and constants are equal, dtypes are part of the configuration, and tensors are aligned to 16 bytes. ``run`` says when.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import triton
from torch import Tensor
from triton import knobs
from triton.runtime.jit import JITFunction

KNOWN_TRITON = (3, 4) <= tuple(int(part) for part in triton.__version__.split(".")[:2]) <= (3, 8)
"""Whether ``Launch`` knows the arguments of a compiled kernel's ``run``. Other versions of Triton make all launches."""


class LogitSizes(NamedTuple):
    """Sizes of logits as kernels take them. Names ending in ``_v`` are in units of ``VECTOR`` elements.

    Triton derives load widths from the divisors of an offset, but knows only whether a run-time number is divisible by 16.
    """

    samples: int
    classes_v: int
    student_stride_v: int
    """Between two samples."""
    teacher_stride_v: int


class Numbers(NamedTuple):
    """The numeric options of a loss. The weight of a term that is not computed is 0."""

    temperature: float
    contrast_temperature: float
    kd_temperature: float
    ce_weight: float
    kd_weight: float
    class_wise_weight: float
    sample_wise_weight: float
    label_smoothing: float


class Varying(NamedTuple):
    """The kernel arguments that change from call to call; kernel parameters have the same names."""

    student: Tensor
    """Logits ``(B, C)`` with contiguous rows."""
    teacher: Tensor
    """Logits ``(B, C)`` with contiguous rows."""
    target: Tensor
    """Labels, int64 ``(B,)``, or class probabilities, ``(B, C)`` of a floating dtype, contiguous. Without targets, any
    tensor: no kernel reads it."""
    scratch: Tensor
    """float32, as ``scratch.buffers`` lays it out."""
    loss: Tensor
    """float32, a scalar."""
    terms: Tensor
    """float32 ``(4,)``."""
    gradient: Tensor
    """float32, a row of ``C`` for each sample that needs a gradient. Without a gradient, any tensor."""
    numbers: Numbers

    @property
    def aligned(self) -> bool:
        """Whether every tensor starts at a multiple of 16 bytes."""
        student, teacher, target, scratch, loss, terms, gradient, _ = self
        addresses = student.data_ptr() | teacher.data_ptr() | target.data_ptr() | scratch.data_ptr()
        return (addresses | loss.data_ptr() | terms.data_ptr() | gradient.data_ptr()) % 16 == 0


class Launch:
    """One launch of a configuration."""

    def __init__(
        self, kernel: Any, programs: Sequence[int], arguments: dict[str, Any], options: dict[str, int] | None = None
    ) -> None:
        """Args:
        kernel: a ``triton.jit`` function, possibly autotuned.
        programs: the grid.
        arguments: all arguments that are not in ``Varying``, by name.
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
        """Launches through Triton, which finds or compiles the kernel, on the current device.

        Args:
            varying: the arguments of this call.
            keep: whether Triton would use the same compiled kernel for every call of this configuration.
        """
        named = {name: getattr(varying, name) for name in self._varying}
        compiled = self.kernel[self.programs](**named, **self._named)
        if keep and isinstance(self.kernel, JITFunction):
            self._compiled, self._run = compiled, compiled.run

    def repeat(self, varying: Varying, stream: Any) -> bool:
        """Launches the kept kernel, if any, on this stream of the current device; returns whether it did."""
        if self._run is None or self.kernel.pre_run_hooks:
            return False
        arguments = self._in_order.copy()
        for place, field in self._places:
            arguments[place] = varying[field]
        compiled = self._compiled
        # After the kernel's metadata: the launch metadata, the enter hook and the exit hook.
        self._run(*self.programs, stream, compiled.function, compiled.packed_metadata, None, None, None, *arguments)
        return True


def run(launches: Sequence[Launch], varying: Varying, backend: str) -> None:
    """Runs the launches of a call in order, on the current device and stream.

    On NVIDIA GPUs they are direct if tensors are aligned and no hook is installed. On AMD GPUs they never are: Triton's
    lookup also depends on whether a tensor's storage exceeds 2 GB.

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
    """Whether launches are observed: through hooks, as by profilers, or by replacing Triton's method, as by simulators."""
    before, after = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    # A chain of hooks; in Triton 3.4, a function or None.
    hooked = getattr(before, "calls", before) or getattr(after, "calls", after)
    return bool(hooked) or JITFunction.run.__module__ != JITFunction.__module__
