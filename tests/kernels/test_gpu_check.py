"""``make gpu-check`` as far as it goes without a GPU: its checks run on simulated kernels, and what it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from simulate import simulator

from benchmarks import gpu_check
from benchmarks.gpu_check import Finding, Timing, attempt, cases, check_all, check_numbers, make_case, report


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
    timings = [
        Timing(256, 1000, "float32", "triton", 0.05, 12.0),
        Timing(256, 1000, "float32", "definition", None, None, "OOM"),
    ]
    assert report([right], timings, tmp_path) == 0
    assert report([right, wrong, wrong], timings, tmp_path) == 1
    text = (tmp_path / "report.md").read_text()
    assert text.count("FAILED numbers b: off by 3") == 2
    assert "| 256, 1000 | float32 | definition | OOM |" in text
    assert len(json.loads((tmp_path / "report.json").read_text())["findings"]) == 3


def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check"], capture_output=True, text=True, check=False)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert done.returncode == 2
    assert "needs a GPU" in done.stdout
