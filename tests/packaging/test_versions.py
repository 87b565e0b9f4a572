"""The versions that setup.py asks for are those that make test-matrix runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bounds(package: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The oldest version in setup.py, and the first that is newer than all that are tested."""
    ((lower, upper),) = re.findall(rf'"{package}>=([\d.]+),<([\d.]+)"', (ROOT / "setup.py").read_text())
    return numbers(lower), numbers(upper)


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


def test_every_minor_version_of_pytorch_that_setup_py_allows_is_tested() -> None:
    tested = [version for version, *_ in (*in_matrix("LIBRARY_MATRIX"), *in_matrix("TRAINER_MATRIX"))]
    (major, first), (_, end) = bounds("torch")
    assert sorted([*tested, pinned("torch")]) == [(major, minor) for minor in range(first, end)]


def test_the_oldest_torchvision_of_the_trainer_is_tested() -> None:
    assert in_matrix("TRAINER_MATRIX")[0][1] == bounds("torchvision")[0]


def test_the_newest_versions_are_those_that_make_test_installs() -> None:
    for package in ("torch", "torchvision"):
        major, minor = pinned(package)
        assert bounds(package)[1] == (major, minor + 1)
