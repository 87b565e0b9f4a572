"""The versions that setup.py asks for are those that make test-matrix runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def oldest(package: str) -> tuple[int, ...]:
    """The lower bound in setup.py."""
    return bounds(package)[0]


def bounds(package: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The oldest version in setup.py, and the first that is newer than all that are tested."""
    ((lower, upper),) = re.findall(rf'"{package}>=([\d.]+),<([\d.]+)"', (ROOT / "setup.py").read_text())
    return numbers(lower), numbers(upper)


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
    for package in ("torch", "torchvision"):
        major, minor = numbers(pinned[package])
        assert bounds(package)[1] == (major, minor + 1) > bounds(package)[0]
