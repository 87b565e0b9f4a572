"""What became of a run, read from its folder.

The trainer writes metrics.jsonl and, when it is finished, result.json. This package adds failure.json when the trainer ended
otherwise, and launch.json with the greatest number of runs that ran beside each other.
"""

import json
from typing import Any, NamedTuple

from training.compare.grid import Run
from training.storage import files

RESULT, METRICS, FAILURE, LAUNCH, LOG = "result.json", "metrics.jsonl", "failure.json", "launch.json", "log.txt"

FINISHED, DIVERGED, FAILED, UNFINISHED = "finished", "diverged", "failed", "unfinished"

DIVERGED_STATUS = 3
"""The trainer's exit status for a loss that is not finite."""


class Outcome(NamedTuple):
    """What became of one run.

    Attributes:
        run: the run.
        state: finished, diverged, failed or unfinished.
        result: result.json, None unless finished.
        epochs: the lines of metrics.jsonl.
        jobs: greatest number of runs beside each other while it ran, itself included.
    """

    run: Run
    state: str
    result: dict[str, Any] | None = None
    epochs: tuple[dict[str, Any], ...] = ()
    jobs: int = 1

    @property
    def settled(self) -> bool:
        """Nothing is left to do: a diverged run would diverge again."""
        return self.state in (FINISHED, DIVERGED)


def read_outcome(run: Run) -> Outcome:
    """What became of ``run``."""
    jobs = _read(run, LAUNCH).get("jobs", 1)
    if (run.folder / RESULT).exists():
        lines = (run.folder / METRICS).read_text().splitlines()
        return Outcome(run, FINISHED, _read(run, RESULT), tuple(map(json.loads, lines)), jobs)
    status = _read(run, FAILURE).get("status")
    if status is None:
        return Outcome(run, UNFINISHED, jobs=jobs)
    return Outcome(run, DIVERGED if status == DIVERGED_STATUS else FAILED, jobs=jobs)


def note_launch(run: Run, jobs: int) -> None:
    """Notes that ``run`` starts, with up to ``jobs`` runs at a time."""
    (run.folder / FAILURE).unlink(missing_ok=True)
    jobs = max(jobs, _read(run, LAUNCH).get("jobs", 1))
    files.write_text(run.folder / LAUNCH, json.dumps({"jobs": jobs}) + "\n")


def note_end(run: Run, status: int) -> Outcome:
    """Notes the exit status that the trainer ended with, and reads what became of the run."""
    if status != 0 or not (run.folder / RESULT).exists():
        files.write_text(run.folder / FAILURE, json.dumps({"status": status}) + "\n")
    return read_outcome(run)


def end_of_log(run: Run, lines: int = 10) -> str:
    """The last lines that the trainer printed."""
    path = run.folder / LOG
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def _read(run: Run, name: str) -> dict[str, Any]:
    path = run.folder / name
    return json.loads(path.read_text()) if path.exists() else {}
