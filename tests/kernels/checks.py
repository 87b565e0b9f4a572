"""Shared by the kernel tests: one training step with the kernels, bounds on its error, and the paths that it may take.

The bounds are those of docs/performance.md: a gradient error below 2e-6 of the largest entry for split-fp16 products, and
below 1.5e-3 for single-fp16 operands, before the gradient is rounded to the student's dtype.
"""

from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from cases import Inputs, as_double, batch_of, evaluate, make_inputs, settings_of
from torch import Tensor

from bickd_kernels.backends import triton as kernels
from bickd_kernels.backends.triton import planning

FLOAT32_GRADE = 2e-6
SINGLE_FLOAT16 = 1.5e-3

NOTHING = 2e-7
"""The absolute error allowed where the true gradient is 0."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

TILED = (70, 150)
"""2 tiles of samples and 3 of classes, the last of each partly filled."""

PATHS = {
    "kept": {},
    "panels": {"CACHED_BYTES": 0, "KEPT_BYTES": 0, "PANEL_BYTES": 0},
    "panels of classes": {"CACHED_BYTES": 4 * 64 * 64 * 4, "KEPT_BYTES": 4 * 64 * 64 * 4},
    "partial sums": {"MAX_TILES": 1},
    "class statistics in blocks": {"RESIDENT_SAMPLES": 16},
}
"""Parameters of ``planning`` with which small shapes take the paths of large ones."""

LAUNCHES = {
    "kept": 6,
    # The sums of both sides, and one panel for each column of tiles: four of classes and two of samples.
    "panels": 7 + 2 * 4 + 2 * 2,
    # The sums of the class side, and two panels, of three columns of tiles and of one; samples are kept.
    "panels of classes": 7 + 2 * 2,
    "partial sums": 8,
    "class statistics in blocks": 6,
}

PATH_SHAPE = (70, 200)
"""Several tiles on every path."""


class Step(NamedTuple):
    """The loss, and its gradient with respect to the student's logits in float32, before it is rounded to their dtype."""

    loss: Tensor
    gradient: Tensor


def step(kind: str, inputs: Inputs, backend: ModuleType = kernels, **options: float) -> Step:
    """One training step with the kernels; to be called inside ``simulator``."""
    result = backend.compute(batch_of(kind, inputs), settings_of(kind, **options), slice(None))
    return Step(result.loss, result.gradient)


def single(samples: int, classes: int, **options: Any) -> Inputs:
    """Inputs in float32."""
    return make_inputs(samples, classes, dtype=torch.float32, **options)


def take(path: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Makes the next steps take this path, and returns a shape for them."""
    for name, value in PATHS[path].items():
        monkeypatch.setattr(planning, name, value)
    return PATH_SHAPE


def few_logits(*_: object) -> planning.LogitTile:
    """A tile that splits rows, so that sums have to be rescaled."""
    return planning.LogitTile(4, 32, warps=4)


def has_single_operands(
    student: Tensor,
    *,
    temperature: float = 2.0,
    contrast_temperature: float = 0.2,
    similarity: str = "cosine",
    **_others: Any,
) -> bool:
    """Whether docs/performance.md promises single-fp16 operands only, for a call with such a student ``(B, C)``.

    Stated here again: a backend that chose them where it must not would otherwise loosen its own bounds.
    """
    sharp = contrast_temperature < (0.15 if similarity == "correlation" else 0.1) or temperature < 1
    narrow = student.dtype != torch.float32 or torch.get_float32_matmul_precision() != "highest"
    return narrow and not sharp and min(student.shape) >= 16


def assert_right(actual: Step, kind: str, inputs: Inputs, **options: Any) -> None:
    """Compares a step with the definition in float64 for the same numbers."""
    loss, gradient = evaluate(kind, as_double(inputs), backend="reference", **options)
    single = has_single_operands(inputs.student, **options)
    assert torch.isfinite(loss), "the definition has no finite loss here: compare otherwise"
    torch.testing.assert_close(actual.loss.double(), loss, rtol=1e-4 if single else 1e-6, atol=1e-6)
    bound = (SINGLE_FLOAT16 if single else FLOAT32_GRADE) * float(gradient.abs().max()) + NOTHING
    error = float((actual.gradient.double() - gradient).abs().max())
    assert error <= bound, f"the gradient is off by {error:.2e}, {bound:.2e} is allowed"
