"""``gpu_check.session`` keeps its results readable, whatever happens to a process or to the session itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check.report import failures, passed, unfinished
from benchmarks.gpu_check.session import Phase, run_session

HERE = Path(__file__).parent

SESSION = """
import sys
from pathlib import Path
from benchmarks.gpu_check.session import Phase, run_session
run_session([Phase(name, f"gpu_check_phases.{name}", 1) for name in sys.argv[2:]], Path(sys.argv[1]), seconds=60)
"""


@pytest.fixture(autouse=True)
def phases_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(HERE.parents[1]))))


def run(folder: Path, *names: str, seconds: float = 2.0, processes: int = 1) -> list[dict[str, Any]]:
    return run_session([Phase(name, f"gpu_check_phases.{name}", 1, processes) for name in names], folder, seconds)


def results(lines: list[dict[str, Any]], phase: str) -> list[str]:
    return [line["task"] for line in lines if line["kind"] == "result" and line["phase"] == phase]


def read_results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_every_task_is_done_once_by_parallel_processes(tmp_path: Path) -> None:
    lines = run(tmp_path, "steady", seconds=20, processes=2)
    assert sorted(results(lines, "steady")) == ["task 0", "task 1", "task 2"]
    assert passed(lines)
    assert lines == read_results(tmp_path)
    assert "**PASSED**; 3 of 3 checks passed" in (tmp_path / "report.md").read_text()


def test_wrong_numbers_and_exceptions_are_failures_and_the_rest_is_done(tmp_path: Path) -> None:
    lines = run(tmp_path, "wrong", "steady", seconds=20)
    assert [line["task"] for line in failures(lines)] == ["wrong", "failing"]
    assert not passed(lines)
    assert len(results(lines, "steady")) == 3
    report = (tmp_path / "report.md").read_text()
    assert "FAILED wrong: wrong: gradient off by 3.00e-05 of 2.00e-06 allowed" in report
    assert "FAILED wrong: failing: RuntimeError: no such kernel image" in report
    assert report.index("## Failures") < report.index("## Phases")


def test_a_task_that_hangs_is_stopped_at_its_own_deadline_or_at_that_of_its_phase(tmp_path: Path) -> None:
    start = time.monotonic()
    lines = run(tmp_path, "hanging", "steady", seconds=10)
    # The tasks that hang would take 1000 seconds each.
    assert time.monotonic() - start < 1000
    assert results(lines, "hanging") == ["quick"]
    stopped = {line["task"]: line["how"] for line in lines if line["kind"] == "lost"}
    assert stopped["limited"].startswith("stopped after")
    assert stopped["endless"].startswith("stopped at the end of the phase")
    assert len(results(lines, "steady")) == 3
    assert failures(lines) == []
    assert "hanging: 1 tasks were not reached, the first is last" in unfinished(lines)
    assert "**UNFINISHED**" in (tmp_path / "report.md").read_text()


def test_a_process_that_crashes_is_a_failure_and_another_continues(tmp_path: Path) -> None:
    lines = run(tmp_path, "crashing", seconds=20)
    assert results(lines, "crashing") == ["before", "after"]
    assert [(line["task"], line["how"]) for line in failures(lines)] == [("crash", "SIGABRT")]
    report = (tmp_path / "report.md").read_text()
    assert "FAILED crashing: crash: the process ended by SIGABRT" in report
    assert "> an illegal access" in report


def test_a_process_that_has_lost_its_gpu_is_replaced(tmp_path: Path) -> None:
    lines = run(tmp_path, "poisoned", seconds=20)
    assert [(line["task"], "illegal memory access" in line["error"]) for line in failures(lines)] == [("poison", True)]
    processes = [line["process"] for line in lines if "process" in line]
    assert len(set(processes)) == 2
    assert results(lines, "poisoned") == ["before", "poison", "after"]


def test_a_phase_that_does_not_start_is_one_failure_and_the_next_is_run(tmp_path: Path) -> None:
    lines = run(tmp_path, "unstartable", "steady", seconds=20, processes=2)
    assert [line["task"] for line in failures(lines)] == ["start"]
    assert "what this machine lacks" in (tmp_path / "report.md").read_text()
    assert len(results(lines, "steady")) == 3


def test_a_session_that_did_not_reach_its_numbers_has_not_passed(tmp_path: Path) -> None:
    hanging = Phase("numbers", "gpu_check_phases.hanging", 1)
    assert not passed(run_session([hanging], tmp_path, seconds=1))


def until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def start_session(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SESSION, str(folder), "steady", "crashing", "hanging"]
    session = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    file = folder / "results.jsonl"
    until(lambda: file.exists() and '"hanging", "status": "running"' in file.read_text())
    return session


def test_a_session_that_is_killed_leaves_all_its_results(tmp_path: Path) -> None:
    session = start_session(tmp_path)
    session.kill()
    session.wait()
    lines = read_results(tmp_path)
    assert len(results(lines, "steady")) == 3
    report = (tmp_path / "report.md").read_text()
    assert "FAILED crashing: crash" in report
    assert "- hanging: " in report
    # Its processes end with it, even one that hangs.
    until(lambda: not processes_with(str(tmp_path)))


def test_a_session_that_is_interrupted_writes_its_report_and_ends_its_processes(tmp_path: Path) -> None:
    session = start_session(tmp_path)
    session.send_signal(signal.SIGTERM)
    assert session.wait(timeout=20) == 143
    assert read_results(tmp_path)[-1]["kind"] == "end"
    assert "- hanging: was running" in (tmp_path / "report.md").read_text()
    assert not processes_with(str(tmp_path))


def processes_with(argument: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if argument in words:
            found.append(path.parent.name)
    return found
