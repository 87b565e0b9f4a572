"""The runs of a comparison: what each one is, and the folder that it has.

A folder's name ends in a hash of all that the run's figures depend on, so that no other run is taken for it.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from training.compare.comparison import TUNING_SEED, Comparison
from training.compare.variants import Variant
from training.config import Config

ELSEWHERE = {"data", "teacher_checkpoint", "output", "resume", "checkpoint_minutes"}
"""Settings that the figures do not depend on, or that are places; a teacher is known by its content."""


@dataclass(frozen=True)
class Run:
    """One run of ``training.train``; ``title`` is how it is called in what is printed."""

    title: str
    config: Config

    @property
    def folder(self) -> Path:
        return self.config.output


@dataclass(frozen=True)
class Teacher:
    """A teacher's checkpoint, and the SHA-256 of its content."""

    file: Path
    content: str


def read_teacher(file: Path) -> Teacher:
    """The teacher in ``file``.

    Raises:
        OSError: it cannot be read.
    """
    return Teacher(file, hashlib.sha256(file.read_bytes()).hexdigest())


def teacher_run(comparison: Comparison) -> Run:
    """The run that trains the teacher."""
    config = comparison.teacher_config(comparison.output)
    return _placed("teacher", f"teacher {comparison.teacher}", config, {})


def report_run(comparison: Comparison, variant: Variant, drawn: dict[str, float], seed: int, teacher: Teacher | None) -> Run:
    """A run whose test accuracy is reported: with the literature's settings, or tuned where any are ``drawn``."""
    kind = "-tuned" if drawn else ""
    title = f"{variant.label}{' tuned' if drawn else ''} seed {seed}"
    return _student(comparison, variant, drawn, seed, teacher, f"{kind}-seed{seed}", title)


def trial_run(
    comparison: Comparison, variant: Variant, drawn: dict[str, float], number: int, teacher: Teacher | None
) -> Run:
    """A run whose validation accuracy decides between settings."""
    title = f"{variant.label} trial {number}"
    return _student(comparison, variant, drawn, TUNING_SEED, teacher, f"-trial{number}", title)


def _student(
    comparison: Comparison, variant: Variant, drawn: dict[str, float], seed: int, teacher: Teacher | None, suffix: str,
    title: str,
) -> Run:  # fmt: skip
    file = teacher.file if teacher is not None else None
    config = comparison.student_config(variant, drawn, seed, file, comparison.output)
    # The literature's values are in the hash too: they may change with a version of this suite.
    beside: dict[str, object] = {
        "all_settings": variant.all_settings(drawn),
        "teacher_content": teacher.content if teacher is not None and variant.needs_teacher else None,
    }
    name = re.sub(r"[^\w.=,-]+", "-", variant.label)[:80]
    return _placed(f"{name}{suffix}", title, config, beside)


def _placed(prefix: str, title: str, config: Config, beside: dict[str, object]) -> Run:
    settings = {name: value for name, value in config.as_dict().items() if name not in ELSEWHERE}
    text = json.dumps({**settings, **beside}, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Run(title, dataclasses.replace(config, output=config.output / f"{prefix}-{digest}"))
