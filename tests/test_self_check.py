"""``python -m bickd_kernels`` reports versions, devices and backends, and fails if a backend gives wrong numbers."""

import json
import platform
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bickd_kernels import __version__, self_check
from bickd_kernels.backends import choice

ON_THE_CPU = [(backend, "cpu") for backend in ("torch", "reference") for _ in self_check.CASES]


def wrong(factor: float) -> Any:
    """The torch backend with its gradient times ``factor``."""
    right = choice.load("torch")

    def compute(*arguments: Any) -> Any:
        result = right.compute(*arguments)
        return result._replace(gradient=factor * result.gradient)

    return SimpleNamespace(compute=compute)


def test_the_command_prints_versions_backends_and_errors() -> None:
    done = subprocess.run([sys.executable, "-m", "bickd_kernels"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in (__version__, torch.__version__, platform.python_version(), platform.platform(), "BICKD_BACKEND"):
        assert expected in done.stdout
    assert done.stdout.count("ok     torch on cpu") == len(self_check.CASES)
    assert "FAILED" not in done.stdout


def test_every_backend_that_can_run_is_checked_on_every_case() -> None:
    findings = self_check.check()
    assert [(each.backend, each.device) for each in findings if each.device == "cpu"] == ON_THE_CPU
    assert all(each.passed for each in findings)
    assert {each.case for each in findings} == {str(case) for case in self_check.CASES}


def test_the_json_holds_the_same_as_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert self_check.main(["--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["environment"] == self_check.describe()
    assert [(each["backend"], each["device"]) for each in content["checks"]][: len(ON_THE_CPU)] == ON_THE_CPU
    assert all(each["passed"] and 0 <= each["gradient_error"] <= each["gradient_tolerance"] for each in content["checks"])


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_a_wrong_gradient_fails_for_that_backend_alone(
    factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = wrong(factor)
    monkeypatch.setattr(choice, "load", lambda *_: stand_in)
    assert self_check.main([]) == 1
    printed = capsys.readouterr().out
    assert "FAILED torch on cpu, bickd_loss (17, 29) float32 absences: gradient off by" in printed
    assert "FAILED reference" not in printed


def test_a_wrong_loss_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = choice.load("torch")

    def compute(*arguments: Any) -> Any:
        result = right.compute(*arguments)
        return result._replace(loss=result.loss * 1.001)

    monkeypatch.setattr(choice, "load", lambda *_: SimpleNamespace(compute=compute))
    assert self_check.main([]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED torch on cpu")]
    assert len(failed) == len(self_check.CASES)
    assert all("loss by 1.0e-03" in line for line in failed)


def test_a_backend_that_raises_is_reported_and_the_others_are_still_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any) -> Any:
        raise RuntimeError("no such kernel image")

    monkeypatch.setattr(choice, "load", load)
    assert self_check.main([]) == 1
    printed = capsys.readouterr().out
    assert printed.count("RuntimeError: no such kernel image") == len(self_check.CASES)
    assert printed.count("ok     reference on cpu") == len(self_check.CASES)


@pytest.mark.parametrize(
    ("value", "chosen"), [("torch", "torch"), ("reference", "reference"), ("cuda", "BICKD_BACKEND must be one of")]
)
def test_the_environment_variable_is_reported_with_its_effect(
    value: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BICKD_BACKEND", value)
    description = self_check.describe()
    assert description["BICKD_BACKEND"] == value
    assert chosen in description["backend on cpu"]


def test_a_gpu_is_reported_with_its_default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(choice, "HAS_TRITON", True)
    description = self_check.describe()
    assert (description["GPU"], description["backend on cuda"]) == ("a GPU", "triton")
