"""Runs phases in order, each in separate processes that can be killed, and records their results.

Each result becomes a line of ``results.jsonl`` at once, and ``report.md`` follows within seconds, so a killed session keeps
everything known so far. A process that crashes, hangs or loses its GPU ends only one task; another process takes its place.

A phase may use its share of the remaining time; unused time goes to later phases. While a phase runs, the processes of the
next one start, because starting takes as long as many tasks.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu_check.report import write_report

SECONDS = 480.0
"""Time for a whole session."""

SECONDS_AROUND = 10.0
"""The part of it for starting Python with PyTorch before the phases, and for ending processes after them."""

REPORT_SECONDS = 5.0
"""Time between two reports."""

ROOT = Path(__file__).parents[2]


class Phase(NamedTuple):
    """A module with a function ``tasks``, which several processes work on in parallel.

    Attributes:
        name: of the phase.
        module: its import path.
        share: of the time, relative to the other phases.
        processes: maximum number.
    """

    name: str
    module: str
    share: float
    processes: int = 1


class Results:
    """The lines of ``results.jsonl``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines: list[dict[str, Any]] = []
        self._start = time.monotonic()
        self._file = (folder / "results.jsonl").open("w", buffering=1)
        self._reported = 0.0

    def add(self, kind: str, **values: Any) -> None:
        """Writes a line."""
        line = {"kind": kind, "at": round(time.monotonic() - self._start, 1), **values}
        self.lines.append(line)
        self._file.write(json.dumps(line) + "\n")

    def report(self, *, now: bool = True) -> None:
        """Writes the report; without ``now``, only if the last one is some seconds old."""
        if now or time.monotonic() - self._reported > REPORT_SECONDS:
            write_report(self.lines, self.folder)
            self._reported = time.monotonic()


class _Process:
    """A worker process and its current task."""

    def __init__(self, phase: Phase, number: int, folder: Path) -> None:
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        self.log = logs / f"{phase.name}-{number}.txt"
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        # Many run in parallel.
        few_threads = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu_check.worker", phase.module, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
                env={**os.environ, **few_threads, "PYTHONPATH": path},
            )
        assert self._process.stdout is not None
        self.output = self._process.stdout
        os.set_blocking(self.output.fileno(), False)
        self._unread = b""
        self.ready = self.leaving = self.ended = False
        self.task: int | None = None
        self.since = time.monotonic()

    @property
    def idle(self) -> bool:
        """Whether it is waiting for a task."""
        return self.ready and not (self.ended or self.leaving) and self.task is None

    def give(self, task: int) -> None:
        """Gives it the task with this number."""
        assert self._process.stdin is not None
        self.task, self.since = task, time.monotonic()
        # If it has ended, the end of its output will show it.
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{task}\n".encode())

    def messages(self) -> list[Any]:
        """What it has written since the last call; also detects that it has ended."""
        while True:
            chunk = self.output.read(65536)
            if chunk is None:
                break
            if not chunk:
                self.ended = True
                break
            self._unread += chunk
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        """Kills it and its child processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.ended = True

    def status(self) -> str:
        """How it ended, once the process or its output has. A process stuck in a driver is not waited for."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=3)
        status = self._process.returncode
        if status is None:
            return "no end"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-1500:]


class _Running:
    """A running phase with its processes."""

    def __init__(self, phase: Phase, results: Results) -> None:
        self.phase, self.results = phase, results
        self.tasks: list[tuple[str, float | None]] = []
        self.waiting: deque[int] = deque()
        self.processes: list[_Process] = []
        self.done = 0
        self.failed_to_start = False
        for _ in range(min(phase.processes, len(os.sched_getaffinity(0)))):
            self._start_process()

    def _start_process(self) -> None:
        self.processes.append(_Process(self.phase, len(self.processes), self.results.folder))

    def run(self, limit: float, scale: float) -> None:
        """Runs the tasks within ``limit`` seconds; a task's own time limit is multiplied by ``scale``."""
        start = time.monotonic()
        end = start + limit
        self.results.add("phase", phase=self.phase.name, status="running", limit=round(limit, 1))
        status = "stopped at its deadline"
        while time.monotonic() < end:
            self._listen(min(end - time.monotonic(), 0.2))
            for process in [each for each in self.processes if not each.ended]:
                self._follow(process, scale)
            self.results.report(now=False)
            if self.tasks and not self.waiting and all(each.task is None for each in self.processes):
                status = "complete"
                break
            if all(each.ended for each in self.processes):
                status = "aborted"
                break
        self._stop(end)
        seconds = round(time.monotonic() - start, 1)
        left = [self.tasks[number][0] for number in self.waiting]
        values = {"done": self.done, "tasks": len(self.tasks), "not_reached": left}
        self.results.add("phase", phase=self.phase.name, status=status, seconds=seconds, **values)

    def _listen(self, seconds: float) -> None:
        """Waits until a process writes something."""
        with selectors.DefaultSelector() as selector:
            for process in self.processes:
                if not process.ended:
                    selector.register(process.output, selectors.EVENT_READ)
            if selector.get_map():
                selector.select(max(0.0, seconds))

    def _follow(self, process: _Process, scale: float) -> None:
        """Reads a process's messages, gives it the next task, and handles its end."""
        for message in process.messages():
            if not process.ready:
                process.ready = True
                if not self.tasks:
                    self.tasks = [(name, seconds) for name, seconds in message]
                    self.waiting.extend(range(len(self.tasks)))
            else:
                assert process.task is not None
                process.leaving = message.pop("lost")
                self.results.add("result", phase=self.phase.name, task=self.tasks[process.task][0], **message)
                process.task = None
                self.done += 1
        if process.ended:
            self._lose(process, process.status(), crashed=True)
        elif process.task is not None:
            limit = self.tasks[process.task][1]
            if limit is not None and time.monotonic() - process.since > limit * scale:
                process.kill()
                self._lose(process, f"stopped after {limit * scale:.0f} s", crashed=False)
        elif process.idle and self.waiting:
            process.give(self.waiting.popleft())

    def _lose(self, process: _Process, how: str, *, crashed: bool) -> None:
        """Records the task that a process was running when it ended, and starts another process if tasks remain."""
        if process.task is not None or not (process.ready or self.failed_to_start):
            self._record_loss(process, how, crashed=crashed)
        # Whatever keeps one from starting keeps all of them from starting.
        self.failed_to_start = self.failed_to_start or not process.ready
        process.task = None
        if process.ready and self.waiting:
            self._start_process()

    def _stop(self, end: float) -> None:
        """Ends the processes; the tasks they are still running were not done in time."""
        late = time.monotonic() >= end
        for process in self.processes:
            if late and not process.ended and (process.task is not None or not process.ready):
                how = f"stopped at the end of the phase, after {time.monotonic() - process.since:.0f} s"
                self._record_loss(process, how, crashed=False)
        self.kill()

    def _record_loss(self, process: _Process, how: str, *, crashed: bool) -> None:
        task = "start" if process.task is None else self.tasks[process.task][0]
        log = process.last_words() if crashed else ""
        self.results.add("lost", phase=self.phase.name, task=task, how=how, crashed=crashed, log=log)

    def kill(self) -> None:
        """Kills the processes, and waits until they have released the GPU."""
        alive = [process for process in self.processes if not process.ended]
        for process in alive:
            process.kill()
        for process in alive:
            process.status()


def run_session(phases: Sequence[Phase], folder: Path, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Runs the phases and writes their results.

    Args:
        phases: in order.
        folder: for ``results.jsonl``, ``report.md`` and the logs of processes.
        seconds: time for the whole session.

    Returns:
        The lines of ``results.jsonl``.
    """
    end = time.monotonic() + seconds - min(SECONDS_AROUND, 0.1 * seconds)
    results = Results(folder)
    results.add("session", seconds=seconds, phases=[phase.name for phase in phases])
    results.report()
    started: dict[str, _Running] = {}
    # An interrupted session ends its processes and writes its report.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for number, phase in enumerate(phases):
            for near in phases[number : number + 2]:
                if near.name not in started:
                    started[near.name] = _Running(near, results)
            left = end - time.monotonic()
            started[phase.name].run(left * phase.share / sum(each.share for each in phases[number:]), seconds / SECONDS)
            results.report()
            print(_line_about(results.lines[-1]), flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
        for running in started.values():
            running.kill()
        results.add("end")
        results.report()
    return results.lines


def _line_about(line: dict[str, Any]) -> str:
    return f"{line['at']:5.0f} s  {line['phase']}: {line['done']} of {line['tasks']} tasks, {line['status']}"
