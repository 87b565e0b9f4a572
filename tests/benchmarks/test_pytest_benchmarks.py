"""pytest finds and measures the cases for pytest-benchmark when it is called on their folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_pytest_on_the_folder_measures_the_cases() -> None:
    selection = ["benchmarks/", "-k", "64x100 and (products or torch)", "-p", "no:cacheprovider"]
    limits = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1"]
    # A pytest-xdist worker would pass on in the environment that it is one, and a worker does not measure.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *selection, *limits]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert "warning" not in done.stdout
    for kind in ("forward", "forward and backward"):
        assert f"benchmark 'CIFAR-100-64x100, {kind}': 2 tests" in done.stdout
