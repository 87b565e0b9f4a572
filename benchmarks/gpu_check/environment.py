"""Phase: describes the machine."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.task import Task
from bickd_kernels.self_check import describe

ROOT = Path(__file__).parents[2]
CARD = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,temperature.gpu,memory.total"


def tasks(_folder: Path) -> list[Task]:
    """All tasks of the phase."""
    return [Task("software", software), Task("card", card), Task("revision", revision)]


def software() -> dict[str, Any]:
    """Versions, and the default backend."""
    return {"facts": {**describe(), "CPU cores": str(len(os.sched_getaffinity(0))), "processor": platform.processor()}}


def card() -> dict[str, Any]:
    """The GPU as reported by its driver and by PyTorch."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    facts = {"multiprocessors": str(properties.multi_processor_count), "memory": f"{properties.total_memory / 1e9:.1f} GB"}
    facts["compute capability"] = f"{properties.major}.{properties.minor}"
    command = ["nvidia-smi", f"--query-gpu={CARD}", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        facts["nvidia-smi"] = f"{type(error).__name__}: {error}"
    else:
        facts |= dict(zip(CARD.split(","), printed.split(", "), strict=False))
    return {"facts": facts}


def revision() -> dict[str, Any]:
    """The checked commit, if there is a repository."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {"facts": {"revision": "unknown"}}
    return {"facts": {"revision": done.stdout.strip()}}
