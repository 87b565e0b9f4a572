"""The source distribution and the wheel built from it: what they hold, and what they say about themselves."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from bickd_kernels import __version__

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "bickd_kernels", "docs", "tests", "training")
FILES = (
    "CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "constraints.txt", "pyproject.toml",
    "setup.py",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built offline from a copy, because building leaves files in the source."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"bickd_kernels-{__version__}.dist-info/METADATA").decode())


def files_of(folder: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_the_wheel_holds_every_module_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files_of("bickd_kernels")
    assert "bickd_kernels/py.typed" in names


def test_the_wheel_holds_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"bickd_kernels-{__version__}.dist-info/licenses/LICENSE").decode()
    assert text == (ROOT / "LICENSE").read_text()


def test_the_source_distribution_holds_what_make_test_needs(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert names >= {*FILES, *(name for folder in FOLDERS for name in files_of(folder))}


def test_the_metadata_has_version_license_description_and_extras(metadata: Message) -> None:
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Project-URL"] == "Paper, https://arxiv.org/abs/2602.01265"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert (ROOT / "README.md").read_text() in metadata.get_payload()
    assert metadata.get_all("Provides-Extra") == ["triton", "training", "hf", "test", "dev"]


def test_the_library_needs_pytorch_without_an_upper_bound(metadata: Message) -> None:
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [re.split("[<>]", line)[0] for line in needed] == ["torch", "typing_extensions"]
    assert "<" not in needed[0]
