"""Which backend runs: by argument, else by environment variable, else the default."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch
from cases import make_inputs

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends import choice

LOSSES = [pytest.param(bilateral_loss, id="bilateral"), pytest.param(bickd_loss, id="bickd")]


def runs_reference(loss: Any, **options: Any) -> bool:
    """Whether the reference ran: it alone has a second derivative."""
    inputs = make_inputs(4, 3)
    student = inputs.student.requires_grad_()
    value = loss(student, *inputs[1:], **options)
    try:
        torch.autograd.grad(value, student, create_graph=True)
    except RuntimeError as error:
        return "second derivative" not in str(error)
    return True


@pytest.mark.parametrize("loss", LOSSES)
def test_the_argument_selects_the_backend(loss: Any) -> None:
    assert runs_reference(loss, backend="reference")
    assert not runs_reference(loss, backend="torch")
    assert not runs_reference(loss, backend="auto")
    assert not runs_reference(loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_auto_follows_the_environment(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BICKD_BACKEND", "reference")
    assert runs_reference(loss)
    assert runs_reference(loss, backend="auto")
    monkeypatch.setenv("BICKD_BACKEND", "torch")
    assert not runs_reference(loss)
    monkeypatch.setenv("BICKD_BACKEND", "auto")
    assert not runs_reference(loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_argument_wins_over_the_environment(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BICKD_BACKEND", "reference")
    assert not runs_reference(loss, backend="torch")
    monkeypatch.setenv("BICKD_BACKEND", "torch")
    assert runs_reference(loss, backend="reference")


@pytest.mark.parametrize("wrong", ["cuda", "Torch", ""])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_unknown_backend_is_refused_by_name(loss: Any, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(4, 3)
    with pytest.raises(ValueError, match=rf"^backend must be one of auto, torch, .* got '{wrong}'"):
        loss(*inputs, backend=wrong)
    monkeypatch.setenv("BICKD_BACKEND", wrong)
    with pytest.raises(ValueError, match=rf"BICKD_BACKEND must be one of auto, torch, .* got '{wrong}'"):
        loss(*inputs)


@pytest.mark.parametrize("loss", LOSSES)
def test_triton_on_the_cpu_is_refused(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(4, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=r'^backend "triton" needs logits on a GPU, got cpu; use "auto" or "torch"'):
        loss(*inputs, backend="triton")
    monkeypatch.setenv("BICKD_BACKEND", "triton")
    with pytest.raises(ValueError, match=r'^backend "triton" needs logits on a GPU, got cpu'):
        loss(*inputs)


def test_auto_is_triton_on_a_gpu_and_torch_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "HAS_TRITON", True)
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert choice.resolve("auto", gpu, dtype) == "triton"
        assert choice.resolve("auto", cpu, dtype) == "torch"
    monkeypatch.setenv("BICKD_BACKEND", "torch")
    assert choice.resolve("auto", gpu, torch.float32) == "torch"
    assert choice.resolve("triton", gpu, torch.float32) == "triton"


def test_float64_is_computed_in_float64_on_a_gpu() -> None:
    gpu = torch.device("cuda", 0)
    assert choice.resolve("auto", gpu, torch.float64) == "torch"
    with pytest.raises(ValueError, match="computes in float32, got float64 logits"):
        choice.resolve("triton", gpu, torch.float64)


def test_without_triton_auto_is_torch_and_triton_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "HAS_TRITON", False)
    gpu = torch.device("cuda", 0)
    assert choice.resolve("auto", gpu, torch.float32) == "torch"
    with pytest.raises(ImportError, match="needs the package triton"):
        choice.resolve("triton", gpu, torch.float32)


@pytest.mark.parametrize(
    ("package", "version", "expected"),
    [
        ("triton", "3.2.0", False),
        ("triton", "3.3.1", False),
        ("triton", "3.4.0", True),
        ("triton", "3.10.0", True),
        ("pytorch-triton-rocm", "3.3.1", False),
        ("pytorch-triton-rocm", "3.4.0+gitabc", True),
        ("of its own", "1.0", True),
    ],
)
def test_a_triton_that_is_too_old_for_the_kernels_counts_as_missing(
    package: str, version: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if name != package:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", installed)
    assert choice.has_triton() is expected


def test_triton_is_not_imported_before_it_is_used() -> None:
    program = "import sys, bickd_kernels; sys.exit('bickd_kernels.backends.triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
