"""A process of a phase. It does the tasks that its standard input names, and writes their results to its standard output.

    python -m benchmarks.gpu_check.worker MODULE FOLDER

First it writes the names of the module's tasks and their seconds. A line of input is the number of a task; its result is a
line of JSON, with ``lost`` if it is the last one of this process. What libraries print goes to the standard error.
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
"""The exit status after an error that no further use of the GPU survives in this process."""

PR_SET_PDEATHSIG = 1
"""Of ``linux/prctl.h``."""


def perform(task: Task) -> dict[str, Any]:
    """The result of a task; an exception is one too."""
    start = time.monotonic()
    try:
        result = task.run()
    except Exception as error:
        traceback.print_exc()
        # A small GPU is no fault of the kernels.
        small = type(error).__name__ == "OutOfMemoryError"
        result = {"problem": described(error)} if small else {"passed": False, "error": described(error)}
    return {**result, "seconds": round(time.monotonic() - start, 2)}


def gpu_is_lost() -> bool:
    """Whether the GPU answers this process no more, as after an illegal access; memory is given back otherwise."""
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
    """A session that is killed takes this process along, whatever it hangs in."""
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
            # Without destructors, which would ask the GPU.
            os._exit(LOST)


if __name__ == "__main__":
    main()
