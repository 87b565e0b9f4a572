"""The allowed versions are those that `make test-matrix` runs, and the library warns about a newer PyTorch."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from bickd_kernels.versions import NEWEST_TESTED_TORCH, warn_of_untested_torch

ROOT = Path(__file__).parents[2]


def oldest(package: str) -> tuple[int, ...]:
    """The oldest minor version that pyproject.toml allows."""
    (version,) = re.findall(rf'"{package}>=([\d.]+)[",]', (ROOT / "pyproject.toml").read_text())
    return numbers(version)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def pinned(package: str) -> tuple[int, ...]:
    """The version that make test installs."""
    (version,) = re.findall(rf"^{package}==([\d.]+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    return numbers(version)


def in_matrix(name: str) -> list[list[tuple[int, ...]]]:
    """The versions of a variable of the Makefile, ``torch`` or ``torch+torchvision``."""
    (line,) = re.findall(rf"^{name} := (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return [[numbers(version) for version in entry.split("+")] for entry in line.split()]


def test_every_minor_version_of_pytorch_that_is_allowed_without_a_warning_is_tested() -> None:
    tested = [version for version, *_ in (*in_matrix("LIBRARY_MATRIX"), *in_matrix("TRAINER_MATRIX"))]
    (major, first), (_, last) = oldest("torch"), NEWEST_TESTED_TORCH
    assert sorted([*tested, pinned("torch")]) == [(major, minor) for minor in range(first, last + 1)]


def test_the_oldest_torchvision_of_the_trainer_is_tested() -> None:
    assert in_matrix("TRAINER_MATRIX")[0][1] == oldest("torchvision")


def test_the_newest_versions_are_those_that_make_test_installs() -> None:
    ((end,),) = [re.findall(r'"torchvision>=[\d.]+,<([\d.]+)"', (ROOT / "pyproject.toml").read_text())]
    major, minor = pinned("torchvision")
    assert numbers(end) == (major, minor + 1)
    assert pinned("torch") == NEWEST_TESTED_TORCH


@pytest.mark.parametrize("version", ["2.15.0", "2.15.0a0+git1234", "2.100.1+cu130", "3.0.0"])
def test_a_pytorch_newer_than_the_tested_ones_is_warned_about(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.warns(UserWarning, match=re.escape(f"tested with PyTorch up to 2.14, this is {version}: python -m")):
        warn_of_untested_torch()


@pytest.mark.parametrize("version", ["2.6.0", "2.9.1+rocm6.4", "2.14.9"])
def test_a_tested_pytorch_is_not_warned_about(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untested_torch()


def test_the_import_warns_once_and_at_the_line_of_the_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        'import torch; torch.__version__ = "9.0.0"\nimport bickd_kernels\nfrom bickd_kernels import bickd_loss\n'
    )
    done = subprocess.run(
        [sys.executable, str(program)], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("UserWarning") == 1
    assert f"{program}:2: UserWarning: bickd_kernels is tested" in done.stderr
