"""A type checker knows the types of the public functions and modules."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

RIGHT = """
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

from bickd_kernels import BicKDLoss, BicKDTerms, BilateralLoss, BilateralTerms, bickd_loss, bilateral_loss

student, teacher = torch.randn(4, 3), torch.randn(4, 3)
target = torch.tensor([0, 1, 2, 0])

assert_type(bilateral_loss(student, teacher), Tensor)
assert_type(bilateral_loss(student, teacher, target, temperature=2, return_terms=False), Tensor)
assert_type(bilateral_loss(student, teacher, group=None, return_terms=True), tuple[Tensor, BilateralTerms])
assert_type(bickd_loss(student, teacher, target, backend="torch"), Tensor)
assert_type(bickd_loss(student, teacher, target, ce_weight=0.5, return_terms=True), tuple[Tensor, BicKDTerms])
loss, terms = bickd_loss(student, teacher, target, return_terms=True)
assert_type(terms.class_wise, Tensor)
criterion: nn.Module = BicKDLoss(bilateral_weight=2.0, ignore_index=255)
assert_type(BicKDLoss().forward(student, teacher, target), Tensor | tuple[Tensor, BicKDTerms])
assert_type(BilateralLoss().forward(student, teacher), Tensor | tuple[Tensor, BilateralTerms])
assert_type(bilateral_loss(student, teacher, positives="sample", similarity="correlation"), Tensor)
assert_type(bickd_loss(student, teacher, target, label_smoothing=0.1, backend="reference"), Tensor)
"""

WRONG = """
import torch

from bickd_kernels import BicKDLoss, BilateralLoss, bickd_loss, bilateral_loss

student, teacher = torch.randn(4, 3), torch.randn(4, 3)
bilateral_loss(student)
bilateral_loss(student, teacher, temprature=2.0)
bilateral_loss(student, teacher, temperature="2")
bilateral_loss(student, teacher, kd_weight=1.0)
bilateral_loss(student, teacher, positives="labels")
bickd_loss(student, teacher)
bickd_loss(student, teacher, student, group="all")
BicKDLoss(2.0)
BilateralLoss(return_terms="yes")
"""


def test_strict_mypy_accepts_correct_calls_and_reports_every_wrong_one(tmp_path: Path) -> None:
    # Both in one run: most of its time goes into reading PyTorch.
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", "cache", "right.py", "wrong.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False
    )
    # Errors inside the package are left out: its users do not see them.
    errors = [line for line in done.stdout.splitlines() if line.startswith(("right.py", "wrong.py")) and "error:" in line]
    calls = [number for number, line in enumerate(WRONG.splitlines(), 1) if line.startswith(("bi", "Bi"))]
    assert [line for line in errors if line.startswith("right.py")] == []
    assert sorted({int(line.split(":")[1]) for line in errors}) == calls, done.stdout + done.stderr
