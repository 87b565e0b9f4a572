"""Executes runs as processes of ``training.train``, several in parallel, and shows their progress.

On a signal the processes save their progress and stop.
"""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.compare.runs import DIVERGED, FINISHED, LOG, Outcome, Run, end_of_log, note_end, note_launch
from training.loop.interruption import Interrupted, Interruption
from training.messages import say
from training.storage import files
from training.storage.run_folder import CONFIG, write_config

TRAINER = [sys.executable, "-m", "training.train"]
INTERVAL = 0.05
"""Seconds between two polls of the processes."""

Processes = list[tuple[Run, "subprocess.Popen[bytes]"]]


def execute(runs: Sequence[Run], jobs: int, on_end: Callable[[Outcome], None], *, lock: int | None = None) -> None:
    """Trains ``runs`` in order, each from its last checkpoint, and calls ``on_end`` for each that ends, even if it fails.

    Args:
        runs: unfinished runs.
        jobs: number of parallel processes; they share the CPU cores.
        on_end: called in this thread.
        lock: file descriptor that the processes inherit.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; every process has saved its progress and exited.
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
    files.make_folder(run.folder)
    write_config(run.config)
    note_launch(run, jobs)
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with files.append(run.folder / LOG) as log:
        return subprocess.Popen(
            [*TRAINER, "--config", str(run.folder / CONFIG), "--resume"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)}, pass_fds=() if lock is None else (lock,),
            # A terminal sends Ctrl-C to the whole session, and a second signal makes the trainer exit without saving.
            start_new_session=True,
        )  # fmt: skip


def _stop(active: Processes) -> None:
    for _, process in active:
        process.terminate()
    try:
        for _, process in active:
            process.wait()
    finally:
        # A second Ctrl-C arrived while they were saving.
        for _, process in active:
            process.kill()


class GridProgress:
    """A context manager that shows the progress of ``total`` runs, of which ``done`` had already ended."""

    def __init__(self, console: Console, total: int, done: int = 0) -> None:
        self.console, self.total, self.done = console, total, done
        self.bar = Progress(
            TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task("runs", total=total, completed=done)

    def __enter__(self) -> "GridProgress":
        if self.done:
            self._print(f"{self.done}/{self.total} already done")
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def on_end(self, outcome: Outcome) -> None:
        """Counts a run that ended, and shows the last lines of its log if it failed."""
        self.done += 1
        self.bar.update(self.task, completed=self.done)
        start = f"{self.done}/{self.total}"
        if outcome.state == FINISHED and outcome.result is not None:
            self._print(f"{start} done, {outcome.run.title}: {outcome.result['test_accuracy']:.1f} %")
            return
        word = "diverged" if outcome.state == DIVERGED else "failed"
        self._print(f"{start} {word}, {outcome.run.title}; last lines of {outcome.run.folder}/{LOG}:")
        self._print(end_of_log(outcome.run))

    def _print(self, text: str) -> None:
        for line in text.split("\n"):
            say(self.console, line)
