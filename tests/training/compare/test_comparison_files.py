"""The files in ``training/comparisons``, for which docs/results.md gives the commands."""

from pathlib import Path

import pytest

import training
from training.command_line import parse
from training.compare.comparison import Comparison
from training.config import Config

FILES = sorted((Path(training.__file__).parent / "comparisons").glob("*.yaml"))
TEACHERS = [file for file in FILES if file.stem.endswith("_teacher")]


def test_there_are_files_of_comparisons_and_of_teachers() -> None:
    assert TEACHERS
    assert len(FILES) > len(TEACHERS)


@pytest.mark.parametrize("file", [file for file in FILES if file not in TEACHERS], ids=lambda file: file.stem)
def test_a_comparison_file_compares_several_methods_under_one_teacher(file: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher.pt").touch()
    comparison = parse(
        Comparison, ["--config", str(file), "--teacher-checkpoint", str(tmp_path / "teacher.pt")], description=""
    )
    assert {"ce", "kd", "bickd"} <= set(comparison.methods)
    assert comparison.output.parent == Path("runs/cifar100")
    assert f"--config training/comparisons/{file.name}" in file.read_text()


@pytest.mark.parametrize("file", TEACHERS, ids=lambda file: file.stem)
def test_a_teacher_file_trains_without_a_teacher(file: Path) -> None:
    config = parse(Config, ["--config", str(file)], description="")
    assert config.method == "ce"
    assert f"--config training/comparisons/{file.name}" in file.read_text()
