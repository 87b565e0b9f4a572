"""Phase: compute-sanitizer on launches of the kernels.

What it watches is ``python -m benchmarks.gpu_check.sanitizer NUMBER``, which launches one of ``numbers.SUBSET``.
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
"""The exit status of the tool if it has found something."""


def tasks(_folder: Path) -> list[Task]:
    """All of the phase, if the tool is there."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None:
        return [Task("compute-sanitizer", lambda: {"skipped": "not installed"})]
    pairs = [(kind, number) for kind in ("memcheck", "racecheck") for number in range(len(SUBSET))]
    return [Task(f"{kind} of {SUBSET[number]}", partial(watch, tool, kind, number), 90) for kind, number in pairs]


def watch(tool: str, kind: str, number: int) -> dict[str, Any]:
    """What the tool says of a case."""
    command = [tool, "--tool", kind, "--error-exitcode", str(FOUND), sys.executable, "-m", __name__, str(number)]
    # PyTorch's cache of memory would hide accesses beyond a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    printed = (done.stdout + done.stderr)[-1500:]
    if done.returncode in (0, FOUND):
        return {"passed": done.returncode == 0, "said": printed}
    return {"problem": f"exit status {done.returncode}: {printed[-400:]}"}


def launch(number: int) -> None:
    """Forward and backward of a case. Nothing else is computed on the GPU: the tool slows all of it down."""
    case = SUBSET[number]
    evaluate(case, make_batch(case, "cuda"), "triton")
    torch.cuda.synchronize()


if __name__ == "__main__":
    launch(int(sys.argv[1]))
