"""Which backend runs: by argument, else by environment variable, else the default."""

from typing import Any

import pytest
import torch
from cases import make_inputs

from bickd_kernels import bickd_loss, bilateral_loss

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
def test_the_backend_is_that_of_the_argument(loss: Any) -> None:
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
def test_an_unknown_backend_is_named(loss: Any, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(4, 3)
    with pytest.raises(ValueError, match=rf"^backend must be one of auto, torch, .* got '{wrong}'"):
        loss(*inputs, backend=wrong)
    monkeypatch.setenv("BICKD_BACKEND", wrong)
    with pytest.raises(ValueError, match=rf"BICKD_BACKEND must be one of auto, torch, .* got '{wrong}'"):
        loss(*inputs)


@pytest.mark.parametrize("loss", LOSSES)
def test_triton_is_not_implemented_yet(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(4, 3)
    with pytest.raises(NotImplementedError, match='"triton" is not part of this version'):
        loss(*inputs, backend="triton")
    monkeypatch.setenv("BICKD_BACKEND", "triton")
    with pytest.raises(NotImplementedError, match='"triton" is not part of this version'):
        loss(*inputs)
