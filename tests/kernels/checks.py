"""What the tests of the kernels share: one training step by the kernels, and the errors they are allowed.

The bounds are those that the backend promises: products of float32 grade have an error of the gradient below 2e-6 of its
largest entry, products of single float16 operands one below 1.5e-3, before the gradient is rounded to the student's dtype.
"""

from types import ModuleType
from typing import Any, NamedTuple

import torch
from cases import Inputs, as_double, evaluate
from torch import Tensor

from bickd_kernels.arguments import Settings, check_settings
from bickd_kernels.backends import triton as kernels
from bickd_kernels.backends.contract import Batch
from bickd_kernels.backends.triton import launch

FLOAT32_GRADE = 2e-6
SINGLE_FLOAT16 = 1.5e-3

NOTHING = 2e-7
"""What is allowed where the true gradient is 0: there is nothing to be relative to."""


class Step(NamedTuple):
    """Loss, and the gradient by the student's logits in float32, not yet rounded to their dtype."""

    loss: Tensor
    gradient: Tensor


def settings_of(kind: str, **options: Any) -> Settings:
    """The settings of a loss by its name in ``cases``, with the defaults of the public functions."""
    settings: dict[str, Any] = {"temperature": 2.0, "contrast_temperature": 0.2, "ignore_index": -100, "return_terms": False}
    settings |= {"class_weight": 1.0, "sample_weight": 1.0}
    if kind == "bickd":
        settings |= {"ce_weight": 0.1, "kd_weight": 0.9, "kd_temperature": 4.0, "bilateral_weight": 4.0}
    return check_settings(**(settings | options))


def step(kind: str, inputs: Inputs, backend: ModuleType = kernels, **options: Any) -> Step:
    """One training step by the kernels; to be called within ``simulator``."""
    settings = settings_of(kind, **options)
    batch = Batch(inputs.student, inputs.teacher, None if kind == "bilateral_unlabelled" else inputs.target)
    result = backend.forward(batch, settings, True)
    return Step(result.loss, backend.backward(result.saved, torch.tensor(1.0), settings, torch.float32))


def assert_right(actual: Step, kind: str, inputs: Inputs, **options: Any) -> None:
    """Compares a step with the float64 definition of the same numbers."""
    loss, gradient = evaluate(kind, as_double(inputs), backend="reference", **options)
    parts = launch.parts_of(inputs.student.dtype, settings_of(kind, **options), *inputs.student.shape)
    assert torch.isfinite(loss), "the definition has no finite loss here: compare otherwise"
    torch.testing.assert_close(actual.loss.double(), loss, rtol=1e-6 if parts == 2 else 1e-4, atol=1e-6)
    bound = (FLOAT32_GRADE if parts == 2 else SINGLE_FLOAT16) * float(gradient.abs().max()) + NOTHING
    error = float((actual.gradient.double() - gradient).abs().max())
    assert error <= bound, f"the gradient is off by {error:.2e}, {bound:.2e} is allowed"
