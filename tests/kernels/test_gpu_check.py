"""``make gpu-check`` as far as it goes without a GPU: its checks run on simulated kernels, and what it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from simulate import simulator

from benchmarks import gpu_check
from benchmarks.forecast import PROVIDERS, Forecast
from benchmarks.gpu_check import (
    Finding,
    Timing,
    attempt,
    cases,
    check_all,
    check_numbers,
    forecast_here,
    make_case,
    providers,
    report,
)


def test_right_numbers_pass() -> None:
    with simulator(races="off"):
        findings = check_all("cpu", ((17, 29),))
    assert len(findings) == len(list(cases("cpu", ((17, 29),)))) == 15
    assert all(finding.passed for finding in findings), [finding for finding in findings if not finding.passed]


def test_wrong_numbers_and_exceptions_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(17, 29, torch.float32, "cpu", labelled=True)
    evaluate = gpu_check.evaluate

    def off(case: gpu_check.Case, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
        loss, gradient = evaluate(case, backend)
        return loss, gradient * (1 + 1e-5 * (backend == "triton"))

    monkeypatch.setattr(gpu_check, "evaluate", off)
    with simulator(races="off"):
        assert not check_numbers(case).passed
    finding = attempt(check_numbers, case._replace(teacher=case.teacher[:3]))
    assert not finding.passed
    assert "ValueError" in finding.detail


def test_the_report_has_every_failure_and_decides_the_status(tmp_path: Path) -> None:
    right, wrong = Finding("numbers a", True, "fine"), Finding("numbers b", False, "off by 3")
    assert report([right], [], [], "", tmp_path) == 0
    assert report([right, wrong, wrong], [], [], "", tmp_path) == 1
    text = (tmp_path / "report.md").read_text()
    assert text.count("FAILED numbers b: off by 3") == 2
    assert len(json.loads((tmp_path / "report.json").read_text())["findings"]) == 3


def test_the_report_has_what_was_measured_beside_its_forecast(tmp_path: Path) -> None:
    timings = [
        Timing(256, 1000, "float32", "triton", 0.05, 12.0),
        Timing(256, 1000, "float32", "reference", 1.5, 300.0),
        Timing(256, 1000, "bfloat16", "reference", None, None, "OOM"),
        Timing(256, 1000, "float32", "torch compiled", 0.75, 30.0),
    ]
    forecasts = [
        Forecast(256, 1000, "float32", "triton", "toy", 25.0, 5, 33.0, 4.0),
        Forecast(256, 1000, "float32", "reference", "toy", 2000.0, 152, 317.0, 1.0),
        Forecast(256, 1000, "bfloat16", "reference", "toy", 500.0, 155, 317.0, 1.0),
        Forecast(128, 1000, "float32", "torch compiled", "toy", 9.0, 5, 33.0, 4.0),
    ]
    report([], timings, forecasts, "The forecast is one.", tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    head, line, *rows = lines[lines.index("The forecast is one.") + 2 :]
    assert head.startswith("| B, C | logits | provider | ms | forecast ms | measured / forecast | peak MB |")
    assert {row.count("|") for row in (head, line, *rows)} == {head.count("|")}
    # 0.05 ms are twice 25 us; the kernels' flops of a step, 4.03 * 10^9 with padding, in 0.05 ms are 80.5 Tflop/s.
    assert rows[0].startswith("| 256, 1000 | float32 | triton | 0.0500 | 0.0250 | 2.00 | 12.0 |")
    assert rows[0].endswith("| 80.5 |")
    assert rows[1] == "| 256, 1000 | float32 | reference | 1.5000 | 2.0000 | 0.75 | 300.0 | |  |"
    assert rows[2] == "| 256, 1000 | bfloat16 | reference | OOM | 0.5000 | | | | |"
    assert rows[3] == "| 256, 1000 | float32 | torch compiled | 0.7500 |  |  | 30.0 | |  |"
    assert len(json.loads((tmp_path / "report.json").read_text())["forecasts"]) == 4


def test_the_forecast_is_that_of_the_gpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = [Forecast(2, 3, "float32", "triton", device, 1.0, 1, 1.0, 1.0) for device in ("A100", "H200", "other")]
    monkeypatch.setattr(gpu_check, "forecast", lambda: everywhere)
    forecasts, about = forecast_here("NVIDIA H100 80GB HBM3")
    assert forecasts == everywhere[1:2]
    assert "for H200" in about


def test_a_gpu_that_is_not_known_has_no_forecast_and_the_report_says_so() -> None:
    forecasts, about = forecast_here("NVIDIA H100 PCIe")
    assert forecasts == []
    assert "NVIDIA H100 PCIe is none of the known GPUs (NVIDIA A100-SXM4-80GB, NVIDIA H200, NVIDIA H100 80GB HBM3)" in about


def test_a_forecast_that_fails_does_not_take_the_report_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Forecast]:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(gpu_check, "forecast", fail)
    assert forecast_here("NVIDIA H200") == ([], "No forecast: RuntimeError: no compiler")


def test_every_provider_of_the_forecast_is_timed() -> None:
    assert set(PROVIDERS) <= set(providers())


def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check"], capture_output=True, text=True, check=False)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert done.returncode == 2
    assert "needs a GPU" in done.stdout
