"""Three tasks that pass and report their process."""

import os
from pathlib import Path

from benchmarks.gpu_check.task import Task


def tasks(_folder: Path) -> list[Task]:
    print("what a library says")
    return [Task(f"task {number}", lambda: {"passed": True, "process": os.getpid()}) for number in range(3)]
