"""Executes every Triton launch on the CPU, with the semantics of ttsem."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
from launch_ir import STAGES, text_of
from stand_in import gpu_in_backward, gpu_in_operators, gpu_restored
from tensor_core import TENSOR_CORES, TensorCore
from triton.backends.compiler import GPUTarget
from ttsem import harness, mlir, ops, sanitize

ROUNDED = "rounded"

_parse = lru_cache(maxsize=64)(mlir.parse)


@contextmanager
def simulator(
    stage: str = "ttir", cc: int = 90, races: str = "raise", products: str = ROUNDED
) -> Iterator[sanitize.Session]:
    """Executes every launch on CPU tensors as compiled for a GPU, while the tensors report that they are on it.

    ``torch.empty`` returns NaN, so that reading elements that were never written shows. A missing wait or barrier does not
    show: asynchronous copies complete at once, and no warp of a program overtakes another. Stores through a
    ``TensorDescriptor`` argument are lost.

    Args:
        stage: the module to execute: ``"ttir"``, the kernel as written, or ``"ttgir"``, after layouts, pipelining and
            tensor cores are chosen.
        cc: compute capability of the GPU.
        races: what happens at a race between programs: ``"raise"``, ``"record"`` in ``Session.races``, or ``"off"``.
        products: how matrix products are accumulated: ``"rounded"`` to the nearest float32 number after each product, or
            truncated like one of ``TENSOR_CORES``.

    Yields:
        The ttsem session: the number of launches, the races, and the launches that were too large to search for races.

    Raises:
        ttsem.sanitize.KernelFault: from a launch, with ``.fault.kind`` ``"oob_read"``, ``"oob_write"``, ``"race"``
            or ``"poison"`` (an operation without a defined result).
        ttsem.sanitize.Unjudged: from a launch with an operation that ttsem does not know.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}, not one of {STAGES}")
    if products != ROUNDED and products not in TENSOR_CORES:
        raise ValueError(f"products is {products!r}, not {ROUNDED!r} or one of {tuple(TENSOR_CORES)}")

    def read(launch: harness.LaunchRecord, _stage: str, target: GPUTarget, *_: Any, **__: Any) -> str:
        return text_of(launch, stage, target)

    with (
        gpu_restored(),
        gpu_in_backward(),
        gpu_in_operators(),
        mock.patch.object(harness, "ir_for_launch", read),
        mock.patch.object(mlir, "parse", _parse),
        _cut_off_by(TENSOR_CORES[products]) if products != ROUNDED else nullcontext(),
        sanitize.session(cc=cc, races=races) as session,
    ):
        yield session


def _cut_off_by(core: TensorCore) -> AbstractContextManager[Any]:
    """Makes ttsem accumulate matrix products as this tensor core does."""

    def multiply_add(left: np.ndarray, right: np.ndarray, accumulator: np.ndarray, dtype: type) -> np.ndarray:
        if dtype is not np.float32:
            raise ops.Unsupported("tt.dot", f"a tensor core is modelled for sums in float32, not in {dtype.__name__}")
        return core.multiply_add(left, right, accumulator)

    return mock.patch.object(ops, "_fma_chain", multiply_add)
