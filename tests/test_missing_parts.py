"""The package works where Triton is not installed, and where PyTorch was built without distributed."""

import inspect
import subprocess
import sys
import typing
from typing import Any

import pytest
import torch.distributed

from bickd_kernels import BicKDLoss, BilateralLoss, bickd_loss, bilateral_loss
from bickd_kernels.options import BicKDArguments, BicKDOptions

A_STEP_WITHOUT = """
import sys, typing
import torch.distributed

sys.modules["triton"] = None
# A build without distributed has the module, whose is_available says no, and none of its types.
torch.distributed.is_available = lambda: False
del torch.distributed.ProcessGroup

from bickd_kernels import BicKDLoss, bickd_loss
from bickd_kernels.backends import choice
from bickd_kernels.options import BicKDOptions

student, teacher = torch.randn(2, 6, 4, dtype=torch.float64)
target = torch.tensor([0, 1, 2, 3, 3, 0])
gradients = []
for backend in ("auto", "reference"):
    leaf = student.clone().requires_grad_()
    BicKDLoss(backend=backend)(leaf, teacher, target).backward()
    gradients.append(leaf.grad)
assert torch.allclose(*gradients, rtol=1e-10, atol=1e-12)
assert "group" in typing.get_type_hints(BicKDOptions)
assert choice.resolve("auto", torch.device("cuda"), torch.float32) == "torch"
"""


def test_a_step_is_computed_without_triton_and_without_distributed() -> None:
    done = subprocess.run([sys.executable, "-c", A_STEP_WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("public", [BicKDOptions, BicKDArguments])
def test_the_type_of_group_is_a_process_group_where_pytorch_has_one(public: Any) -> None:
    assert typing.get_type_hints(public)["group"] == torch.distributed.ProcessGroup | None


@pytest.mark.parametrize("public", [bilateral_loss, bickd_loss, BilateralLoss, BicKDLoss])
def test_signatures_have_the_type_of_group_too(public: Any) -> None:
    assert inspect.signature(public).parameters["group"].annotation == torch.distributed.ProcessGroup | None
