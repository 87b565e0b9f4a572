"""Runs as processes of ``training.train``, several at a time, which a signal stops with their progress saved."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

import yaml

from training.compare.grid import Run
from training.compare.outcomes import LOG, Outcome, note_end, note_launch
from training.loop.interruption import Interrupted, Interruption
from training.storage import files

TRAINER = [sys.executable, "-m", "training.train"]
CONFIG = "config.yaml"
INTERVAL = 0.05
"""Seconds between two looks at the processes."""

Processes = list[tuple[Run, "subprocess.Popen[bytes]"]]


def execute(runs: Sequence[Run], jobs: int, on_end: Callable[[Outcome], None], *, lock: int | None = None) -> None:
    """Trains ``runs`` in their order, each from its last save, and tells ``on_end`` of each one that ends, however it does.

    Args:
        runs: that are not finished.
        jobs: processes at a time; they share the processor's cores.
        on_end: called in this thread.
        lock: file descriptor that the processes inherit.

    Raises:
        Interrupted: SIGINT or SIGTERM came; every process has saved its progress and ended.
        OSError, ValueError: the folder of a run, or its log, is a symbolic link.
    """
    waiting: deque[Run] = deque(runs)
    active: Processes = []
    with Interruption() as interruption:
        try:
            while (waiting or active) and not interruption.number:
                while waiting and len(active) < jobs:
                    run = waiting.popleft()
                    active.append((run, _launch(run, jobs, lock)))
                ended = [(run, process) for run, process in active if process.poll() is not None]
                for run, process in ended:
                    active.remove((run, process))
                    on_end(note_end(run, process.returncode))
                if not ended:
                    time.sleep(INTERVAL)
        finally:
            _stop(active)
        if interruption.number:
            raise Interrupted(interruption.number)


def _launch(run: Run, jobs: int, lock: int | None) -> "subprocess.Popen[bytes]":
    settings = {name: value for name, value in run.config.as_dict().items() if name != "resume"}
    files.make_folder(run.folder)
    files.write_text(run.folder / CONFIG, yaml.safe_dump(settings, sort_keys=False))
    note_launch(run, jobs)
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with files.append(run.folder / LOG) as log:
        return subprocess.Popen(
            [*TRAINER, "--config", str(run.folder / CONFIG), "--resume"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)}, pass_fds=() if lock is None else (lock,),
            # A terminal sends Ctrl-C to the whole session, and a second signal makes the trainer leave without saving.
            start_new_session=True,
        )  # fmt: skip


def _stop(active: Processes) -> None:
    for _, process in active:
        process.terminate()
    try:
        for _, process in active:
            process.wait()
    finally:
        # Ctrl-C once more, while they were saving.
        for _, process in active:
            process.kill()
