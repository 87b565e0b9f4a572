"""The state of a comparison, read from the folders of its runs: its rows, their statistics, and results.json."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.compare import tuning
from training.compare.comparison import Comparison, Variant
from training.compare.runs import DIVERGED, Outcome, Run, TeacherFile, read_outcome, report_run, trial_run
from training.report import Spread, spread

LAST, BEST, VALIDATION = "test_accuracy", "best_test_accuracy", "validation_accuracy"


class Row(NamedTuple):
    """The report runs of a variant with one choice of settings; ``drawn`` are the settings that tuning chose."""

    variant: Variant
    drawn: dict[str, float]
    outcomes: tuple[Outcome, ...]

    @property
    def finished(self) -> dict[int, dict[str, Any]]:
        """The content of result.json by seed."""
        return {each.run.config.seed: each.result for each in self.outcomes if each.result is not None}

    def value(self, key: str) -> Spread | None:
        """A value of result.json over the seeds that have it, such as ``LAST``, the test accuracy of the last epoch, or
        ``BEST``, the test accuracy of the epoch with the best validation accuracy."""
        values = [result[key] for result in self.finished.values() if result.get(key) is not None]
        return spread(values) if values else None

    def difference(self, reference: "Row") -> Spread | None:
        """Test accuracy of the last epoch minus that of ``reference``, in percentage points, per seed that both have."""
        own, other = self.finished, reference.finished
        differences = [own[seed][LAST] - other[seed][LAST] for seed in own if seed in other]
        return spread(differences) if differences else None

    @property
    def step_times(self) -> list[float]:
        """The training time of a step per seed, in milliseconds, with the time of a first stage spread over the steps."""
        return [1000 * result["seconds"] / result["steps"] for result in self.finished.values()]

    @property
    def step_time(self) -> float | None:
        """The median of ``step_times``."""
        return statistics.median(self.step_times) if self.finished else None


class Trials(NamedTuple):
    """The trials of a variant. ``chosen`` is the number of the best trial, None while undecided or if all diverged."""

    variant: Variant
    drawn: tuple[dict[str, float], ...]
    outcomes: tuple[Outcome, ...]
    chosen: int | None


class Results(NamedTuple):
    """All results so far: rows with the literature's settings, rows with tuned settings already chosen, and the trials."""

    comparison: Comparison
    teacher_accuracy: float | None
    literature: tuple[Row, ...]
    tuned: tuple[Row, ...]
    trials: tuple[Trials, ...]

    @property
    def validated(self) -> bool:
        """Whether the runs have a validation split."""
        found = [result for row in (*self.literature, *self.tuned) for result in row.finished.values()]
        return all(result["validation_accuracy"] is not None for result in found)

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of all runs, without duplicates: seed by seed those with the literature's settings, then trial by
        trial, then seed by seed those with tuned settings."""
        groups = [
            [row.outcomes for row in self.literature],
            [trials.outcomes for trials in self.trials],
            [row.outcomes for row in self.tuned],
        ]
        by_folder = {each.run.folder: each for group in groups for each in _interleaved(group)}
        return list(by_folder.values())


def load_results(comparison: Comparison, teacher: TeacherFile | None) -> Results:
    """Reads the results from the folders of the runs."""
    literature = tuple(_row(comparison, variant, {}, teacher) for variant in comparison.variants)
    trials = tuple(_trials(comparison, variant, teacher) for variant in comparison.variants) if comparison.tune else ()
    tuned = tuple(
        _row(comparison, each.variant, each.drawn[each.chosen], teacher) for each in trials if each.chosen is not None
    )
    measured = [result["teacher_accuracy"] for row in literature for result in row.finished.values()]
    accuracy = next((value for value in measured if value is not None), None)
    return Results(comparison, accuracy, literature, tuned, trials)


def to_run(results: Results) -> list[Run]:
    """The remaining runs, in order."""
    return [each.run for each in results.outcomes if not each.settled]


def find(rows: Sequence[Row], label: str) -> Row | None:
    """The row of the variant ``label``."""
    return next((row for row in rows if row.variant.label == label), None)


def cost_reference(rows: Sequence[Row]) -> Row | None:
    """The row that times are relative to: that of ce, or without it that of kd."""
    return find(rows, "ce") or find(rows, "kd")


def as_json(results: Results) -> str:
    """results.json: every value of every run and trial, with its settings; accuracies in percent, times in seconds."""
    content = {
        "comparison": dataclasses.asdict(results.comparison),
        "teacher_accuracy": results.teacher_accuracy,
        "literature": [_row_content(row) for row in results.literature],
        "tuned": [_row_content(row) for row in results.tuned],
        "trials": [_trials_content(trials) for trials in results.trials],
    }
    return json.dumps(content, indent=1, default=_plain) + "\n"


def _row(comparison: Comparison, variant: Variant, drawn: dict[str, float], teacher: TeacherFile | None) -> Row:
    runs = [report_run(comparison, variant, drawn, seed, teacher) for seed in range(comparison.seeds)]
    return Row(variant, drawn, tuple(map(read_outcome, runs)))


def _trials(comparison: Comparison, variant: Variant, teacher: TeacherFile | None) -> Trials:
    drawn = tuple(tuning.trials(variant, comparison.tune))
    if len(drawn) == 1:
        # Every setting is fixed.
        return Trials(variant, drawn, (), 0)
    outcomes = tuple(
        read_outcome(trial_run(comparison, variant, settings, number, teacher)) for number, settings in enumerate(drawn)
    )
    return Trials(variant, drawn, outcomes, _choice(outcomes))


def _choice(outcomes: Sequence[Outcome]) -> int | None:
    # With a trial missing, the variants would not have had the same number of trials.
    if not all(each.settled for each in outcomes):
        return None
    return tuning.best_trial([None if each.state == DIVERGED else _validation(each) for each in outcomes])


def _validation(outcome: Outcome) -> float:
    assert outcome.result is not None
    accuracy = outcome.result["validation_accuracy"]
    if accuracy is None:
        raise ValueError(f"tune needs a validation split to choose settings: {outcome.run.folder} has none")
    return float(accuracy)


def _interleaved(groups: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """The first of every group, then the second of every group, and so on."""
    longest = max(map(len, groups), default=0)
    return [group[position] for position in range(longest) for group in groups if position < len(group)]


def _row_content(row: Row) -> dict[str, Any]:
    return {
        "variant": row.variant.label,
        "settings": row.variant.all_settings(row.drawn),
        "runs": [_outcome_content(each) for each in row.outcomes],
    }


def _trials_content(trials: Trials) -> dict[str, Any]:
    return {
        "variant": trials.variant.label,
        "ranges": trials.variant.search,
        "chosen": trials.chosen,
        "trials": [
            {"settings": trials.variant.all_settings(drawn), **_outcome_content(each)}
            for drawn, each in zip(trials.drawn, trials.outcomes, strict=False)
        ],
    }


def _outcome_content(outcome: Outcome) -> dict[str, Any]:
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
    raise TypeError(f"{value!r} is not a plain value")
