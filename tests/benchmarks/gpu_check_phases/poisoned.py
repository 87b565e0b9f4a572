"""A task after which its process can no longer use the GPU, as after an illegal access; later tasks need another process."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

from benchmarks.gpu_check.task import Task

lost = False


def use_gpu() -> None:
    if lost:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def poison() -> dict[str, object]:
    global lost
    lost = True
    use_gpu()
    return {}


def work() -> dict[str, object]:
    use_gpu()
    return {"passed": True, "process": os.getpid()}


def tasks(_folder: Path) -> list[Task]:
    gpu = SimpleNamespace(is_initialized=lambda: True, synchronize=use_gpu, empty_cache=use_gpu)
    sys.modules["torch"] = SimpleNamespace(cuda=gpu)  # type: ignore[assignment]
    return [Task("before", work), Task("poison", poison), Task("after", work)]
