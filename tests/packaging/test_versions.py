"""The versions that setup.py asks for are those that make test-matrix runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def oldest(package: str) -> tuple[int, ...]:
    """The lower bound in setup.py."""
    (version,) = re.findall(rf'"{package}>=([\d.]+)"', (ROOT / "setup.py").read_text())
    return numbers(version)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def in_matrix(name: str) -> list[list[tuple[int, ...]]]:
    """The versions of a variable of the Makefile, ``torch`` or ``torch+torchvision``."""
    (line,) = re.findall(rf"^{name} := (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return [[numbers(version) for version in entry.split("+")] for entry in line.split()]


def test_the_oldest_pytorch_of_the_library_is_tested() -> None:
    assert in_matrix("LIBRARY_MATRIX")[0] == [oldest("torch")]


def test_the_oldest_torchvision_of_the_trainer_is_tested() -> None:
    assert in_matrix("TRAINER_MATRIX")[0][1] == oldest("torchvision")


def test_the_newest_versions_are_those_that_make_test_installs() -> None:
    pinned = dict(re.findall(r"^(\w+)==([\d.]+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    assert numbers(pinned["torch"]) > in_matrix("TRAINER_MATRIX")[-1][0] > in_matrix("LIBRARY_MATRIX")[-1][0]
    assert numbers(pinned["torchvision"]) > oldest("torchvision")
