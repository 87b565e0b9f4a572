"""A task that hangs until its own deadline, a quick one, and one that hangs until the end of the phase."""

import time
from pathlib import Path

from benchmarks.gpu_check.session import SECONDS
from benchmarks.gpu_check.task import Task


def hang() -> dict[str, object]:
    time.sleep(1000)
    return {}


def tasks(_folder: Path) -> list[Task]:
    return [
        Task("limited", hang, SECONDS / 20),
        Task("quick", lambda: {"passed": True}),
        Task("endless", hang),
        Task("last", hang),
    ]
