"""torch.compile takes the losses without a graph break and computes the same."""

from functools import partial
from typing import Any

import pytest
import torch
from cases import Inputs, make_inputs, typical_errors, with_absences
from torch import Tensor

from bickd_kernels import bickd_loss, bilateral_loss


def loss_and_gradient(function: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
    student = inputs.student.clone().requires_grad_()
    loss = function(student, inputs.teacher, inputs.target)
    loss.backward()
    return loss.detach(), student.grad


@pytest.mark.parametrize(
    ("loss", "dtype", "floor"),
    [
        pytest.param(bilateral_loss, torch.float64, 1e-10, id="bilateral"),
        # Fused code sums in another order: what is bounded is its distance from the truth.
        pytest.param(bickd_loss, torch.float32, 1e-7, id="bickd"),
    ],
)
def test_compiled_as_one_graph_it_computes_the_same(loss: Any, dtype: torch.dtype, floor: float) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    eager = partial(loss_and_gradient, loss)
    plain = [make_inputs(13, 11, dtype=dtype, seed=seed) for seed in range(8)]
    for batches in ([with_absences(inputs) for inputs in plain], plain):
        errors = typical_errors(partial(loss_and_gradient, compiled), eager, batches)
        eager_errors = typical_errors(eager, eager, batches)
        assert all(error <= 2 * other + floor for error, other in zip(errors, eager_errors, strict=True))
    assert torch.count_nonzero(loss_and_gradient(compiled, with_absences(plain[0]))[1][1]) == 0
