"""A worker process of a phase. It reads task numbers from standard input and writes their results to standard output.

    python -m benchmarks.gpu_check.worker MODULE FOLDER

First it writes the names and time limits of the module's tasks. Each input line is the number of a task; its result is a
line of JSON, with ``lost`` if it is this process's last one. Output of libraries goes to standard error.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.task import Task, described

LOST = 3
"""The exit status after an error that makes the GPU unusable for this process."""

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``."""


def perform(task: Task) -> dict[str, Any]:
    """The result of a task; an exception is a result too."""
    start = time.monotonic()
    try:
        result = task.run()
    except Exception as error:
        traceback.print_exc()
        # A small GPU is not a failure of the kernels.
        small = type(error).__name__ == "OutOfMemoryError"
        result = {"problem": described(error)} if small else {"passed": False, "error": described(error)}
    return {**result, "seconds": round(time.monotonic() - start, 2)}


def gpu_is_lost() -> bool:
    """Whether the GPU no longer responds to this process, as after an illegal access; otherwise frees cached memory."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:
        traceback.print_exc()
        return True
    return False


def die_with_parent() -> None:
    """Makes the kernel kill this process with its session, even if it hangs."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Works until the input ends."""
    module, folder = sys.argv[1:]
    die_with_parent()
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    tasks: list[Task] = importlib.import_module(module).tasks(Path(folder))
    print(json.dumps([[task.name, task.seconds] for task in tasks]), file=output)
    for line in sys.stdin:
        result, lost = perform(tasks[int(line)]), gpu_is_lost()
        print(json.dumps({**result, "lost": lost}), file=output)
        if lost:
            # Skips destructors, which would access the GPU.
            os._exit(LOST)


if __name__ == "__main__":
    main()
