"""The runs of a comparison: their configuration, folder and outcome.

A folder's name ends in a hash of everything that the run's results depend on, so that runs are never confused. Besides the
trainer's files it holds log.txt, the trainer's output; failure.json, if the run failed or diverged; and launch.json, the
maximum number of parallel runs.
"""

import dataclasses
import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from training import exit_status
from training.compare.comparison import TUNING_SEED, Comparison, Variant
from training.config import GROUPS, Config, Recipe, decisive_for_time
from training.data import Columns, load_splits
from training.storage import files
from training.storage.records import read_metrics
from training.storage.run_folder import read_result

FAILURE, LAUNCH, LOG = "failure.json", "launch.json", "log.txt"

FINISHED, DIVERGED, FAILED, UNFINISHED = "finished", "diverged", "failed", "unfinished"


@dataclass(frozen=True)
class Run:
    """One run of ``training.train``; ``title`` is its name in printed messages."""

    title: str
    config: Config

    @property
    def folder(self) -> Path:
        return self.config.output


@dataclass(frozen=True)
class TeacherFile:
    """A teacher checkpoint and the SHA-256 of its content."""

    file: Path
    content: str


def read_teacher(file: Path) -> TeacherFile:
    """The teacher in ``file``.

    Raises:
        OSError: the file cannot be read.
    """
    return TeacherFile(file, hashlib.sha256(file.read_bytes()).hexdigest())


def teacher_run(comparison: Comparison) -> Run:
    """The run that trains the teacher."""
    config = comparison.teacher_config(comparison.output)
    return _placed("teacher", f"teacher {comparison.teacher}", config, {})


def report_run(
    comparison: Comparison, variant: Variant, drawn: dict[str, float], seed: int, teacher: TeacherFile | None
) -> Run:
    """A run whose test accuracy is reported: with the literature's settings, or with the tuned settings ``drawn``."""
    kind = "-tuned" if drawn else ""
    title = f"{variant.label}{' tuned' if drawn else ''} seed {seed}"
    return _student(comparison, variant, drawn, seed, teacher, f"{kind}-seed{seed}", title)


def trial_run(
    comparison: Comparison, variant: Variant, drawn: dict[str, float], number: int, teacher: TeacherFile | None
) -> Run:
    """A run whose validation accuracy helps to choose the settings."""
    title = f"{variant.label} trial {number}"
    return _student(comparison, variant, drawn, TUNING_SEED, teacher, f"-trial{number}", title)


class Outcome(NamedTuple):
    """The outcome of one run.

    Attributes:
        run: the run.
        state: finished, diverged, failed or unfinished.
        result: result.json, None unless finished.
        epochs: the lines of metrics.jsonl.
        jobs: maximum number of parallel runs while it ran, including itself.
    """

    run: Run
    state: str
    result: dict[str, Any] | None = None
    epochs: tuple[dict[str, Any], ...] = ()
    jobs: int = 1

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do: a diverged run would diverge again."""
        return self.state in (FINISHED, DIVERGED)


def read_outcome(run: Run) -> Outcome:
    """Reads the outcome of ``run``."""
    jobs = _read(run, LAUNCH).get("jobs", 1)
    result = read_result(run.folder)
    if result is not None:
        return Outcome(run, FINISHED, result, tuple(read_metrics(run.folder)), jobs)
    status = _read(run, FAILURE).get("status")
    if status is None:
        return Outcome(run, UNFINISHED, jobs=jobs)
    return Outcome(run, DIVERGED if status == exit_status.DIVERGED else FAILED, jobs=jobs)


def note_launch(run: Run, jobs: int) -> None:
    """Records that ``run`` starts, with up to ``jobs`` runs in parallel."""
    (run.folder / FAILURE).unlink(missing_ok=True)
    jobs = max(jobs, _read(run, LAUNCH).get("jobs", 1))
    files.write_text(run.folder / LAUNCH, json.dumps({"jobs": jobs}) + "\n")


def note_end(run: Run, status: int) -> Outcome:
    """Records the exit status of the trainer, and reads the outcome of the run."""
    if status != exit_status.DONE or read_result(run.folder) is None:
        files.write_text(run.folder / FAILURE, json.dumps({"status": status}) + "\n")
    return read_outcome(run)


def end_of_log(run: Run, lines: int = 10) -> str:
    """The last lines that the trainer printed."""
    path = run.folder / LOG
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def _student(
    comparison: Comparison, variant: Variant, drawn: dict[str, float], seed: int, teacher: TeacherFile | None, suffix: str,
    title: str,
) -> Run:  # fmt: skip
    file = teacher.file if teacher is not None else None
    cache = _teacher_cache(comparison, seed, teacher) if teacher is not None and comparison.caches_teacher(variant) else None
    config = comparison.student_config(variant, drawn, seed, file, comparison.output, cache)
    # The literature's values are in the hash too: they may change with a version of this suite.
    beside: dict[str, object] = {
        "all_settings": variant.all_settings(drawn),
        "teacher_content": teacher.content if teacher is not None and variant.needs_teacher else None,
    }
    name = re.sub(r"[^\w.=,-]+", "-", variant.label)[:80]
    return _placed(f"{name}{suffix}", title, config, beside)


def _placed(prefix: str, title: str, config: Config, beside: dict[str, object]) -> Run:
    # The results include times.
    depended_on = {
        **decisive_for_time(config.as_dict()), **beside, "contents": contents(config)
    }  # fmt: skip
    return Run(title, dataclasses.replace(config, output=config.output / f"{prefix}-{_digest(depended_on)}"))


def _teacher_cache(comparison: Comparison, seed: int, teacher: TeacherFile) -> Path:
    """The folder of the teacher's output that all runs with this seed share, whatever their method."""
    names = (*GROUPS["data"], *GROUPS["augmentation"], "precision")
    settings = {name: getattr(comparison, name) for name in names if name != "data"}
    depended_on = {
        **settings, "teacher_content": teacher.content, "contents": contents(comparison)
    }  # fmt: skip
    return comparison.output / f"teacher-output-seed{seed}-{_digest(depended_on)}"


def _digest(depended_on: dict[str, Any]) -> str:
    text = json.dumps(depended_on, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def contents(recipe: Recipe) -> str:
    """The checksum of a recipe's data set, which each process reads once.

    Raises:
        OSError, ValueError: as in ``load_splits``.
    """
    return _contents(recipe.dataset, recipe.data, recipe.image_size, recipe.columns)


@functools.cache
def _contents(dataset: str, data: Path, image_size: int | None, columns: Columns | None) -> str:
    return load_splits(dataset, data, image_size=image_size, columns=columns).identity.checksum()


def _read(run: Run, name: str) -> dict[str, Any]:
    path = run.folder / name
    return json.loads(path.read_text()) if path.exists() else {}
