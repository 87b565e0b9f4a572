"""The cases for pytest-benchmark are found and run, although the tests themselves do without benchmarks."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_pytest_on_the_folder_measures_the_cases() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks/",
        "-k",
        "64x100 and (products or tiled)",
        "-p",
        "no:cacheprovider",
    ]
    limits = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1"]
    done = subprocess.run([*command, *limits], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    for kind in ("forward", "forward and backward"):
        assert f"benchmark 'CIFAR-100-64x100, {kind}': 2 tests" in done.stdout
