"""results.json: every figure of every run and trial, with the settings that they were reached with."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from training.compare.outcomes import Outcome
from training.compare.results import Results, Row, Trials


def document(results: Results) -> str:
    """results.json; accuracies in percent, times in seconds."""
    content = {
        "comparison": dataclasses.asdict(results.comparison),
        "teacher_accuracy": results.teacher_accuracy,
        "literature": [_row(row) for row in results.literature],
        "tuned": [_row(row) for row in results.tuned],
        "trials": [_trials(trials) for trials in results.trials],
    }
    return json.dumps(content, indent=1, default=_plain) + "\n"


def _row(row: Row) -> dict[str, Any]:
    return {
        "variant": row.variant.label,
        "settings": row.variant.all_settings(row.drawn),
        "runs": [_outcome(each) for each in row.outcomes],
    }


def _trials(trials: Trials) -> dict[str, Any]:
    return {
        "variant": trials.variant.label,
        "ranges": trials.variant.search,
        "chosen": trials.chosen,
        "trials": [
            {"settings": trials.variant.all_settings(drawn), **_outcome(each)}
            for drawn, each in zip(trials.drawn, trials.outcomes, strict=False)
        ],
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "folder": outcome.run.folder.name,
        "seed": outcome.run.config.seed,
        "state": outcome.state,
        "jobs": outcome.jobs,
        "result": outcome.result,
        "epochs": list(outcome.epochs),
    }


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is no plain value")
