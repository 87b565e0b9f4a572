"""A process that aborts, as in native code, between two tasks that pass."""

import os
import sys
from pathlib import Path

from benchmarks.gpu_check.task import Task


def crash() -> dict[str, object]:
    print("an illegal access", file=sys.stderr, flush=True)
    os.abort()


def tasks(_folder: Path) -> list[Task]:
    return [Task("before", lambda: {"passed": True}), Task("crash", crash), Task("after", lambda: {"passed": True})]
