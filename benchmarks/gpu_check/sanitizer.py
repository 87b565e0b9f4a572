"""Phase: runs compute-sanitizer on kernel launches.

It checks ``python -m benchmarks.gpu_check.sanitizer NUMBER``, which launches one case of ``numbers.SUBSET``.
"""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.numbers import SUBSET
from benchmarks.gpu_check.task import Task
from bickd_kernels.accuracy import evaluate, make_batch

FOUND = 9
"""The tool's exit status if it has findings."""


def tasks(_folder: Path) -> list[Task]:
    """All tasks of the phase, if the tool is installed."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None:
        return [Task("compute-sanitizer", lambda: {"skipped": "not installed"})]
    pairs = [(kind, number) for kind in ("memcheck", "racecheck") for number in range(len(SUBSET))]
    return [Task(f"{kind} of {SUBSET[number]}", partial(watch, tool, kind, number), 90) for kind, number in pairs]


def watch(tool: str, kind: str, number: int) -> dict[str, Any]:
    """The tool's findings on a case."""
    command = [tool, "--tool", kind, "--error-exitcode", str(FOUND), sys.executable, "-m", __name__, str(number)]
    # PyTorch's caching allocator would hide accesses beyond a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    printed = (done.stdout + done.stderr)[-1500:]
    if done.returncode in (0, FOUND):
        return {"passed": done.returncode == 0, "said": printed}
    return {"problem": f"exit status {done.returncode}: {printed[-400:]}"}


def launch(number: int) -> None:
    """Forward and backward of a case, and nothing else on the GPU, because the tool slows everything down."""
    case = SUBSET[number]
    evaluate(case, make_batch(case, "cuda"), "triton")
    torch.cuda.synchronize()


if __name__ == "__main__":
    launch(int(sys.argv[1]))
