"""The state of a comparison, read from the folders of its runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from training.compare import tuning
from training.compare.comparison import Comparison
from training.compare.grid import Run, Teacher, report_run, trial_run
from training.compare.outcomes import DIVERGED, Outcome, read_outcome
from training.compare.variants import Variant


class Row(NamedTuple):
    """The report runs of a variant with one choice of settings; ``drawn`` are those that tuning chose."""

    variant: Variant
    drawn: dict[str, float]
    outcomes: tuple[Outcome, ...]

    @property
    def finished(self) -> dict[int, dict[str, Any]]:
        """result.json by seed."""
        return {each.run.config.seed: each.result for each in self.outcomes if each.result is not None}


class Trials(NamedTuple):
    """The trials of a variant. ``chosen`` is the number of the best, None while undecided or when all diverged."""

    variant: Variant
    drawn: tuple[dict[str, float], ...]
    outcomes: tuple[Outcome, ...]
    chosen: int | None


class Results(NamedTuple):
    """All that is known: rows of the literature's settings, of tuned ones as far as they are chosen, and the trials."""

    comparison: Comparison
    teacher_accuracy: float | None
    literature: tuple[Row, ...]
    tuned: tuple[Row, ...]
    trials: tuple[Trials, ...]

    @property
    def outcomes(self) -> list[Outcome]:
        """Of all runs: the literature's seed by seed, trial by trial, then the tuned ones seed by seed, none twice."""
        groups = [
            [row.outcomes for row in self.literature],
            [trials.outcomes for trials in self.trials],
            [row.outcomes for row in self.tuned],
        ]
        by_folder = {each.run.folder: each for group in groups for each in _interleaved(group)}
        return list(by_folder.values())


def load_results(comparison: Comparison, teacher: Teacher | None) -> Results:
    """What the folders of the runs hold."""
    literature = tuple(_row(comparison, variant, {}, teacher) for variant in comparison.variants)
    trials = tuple(_trials(comparison, variant, teacher) for variant in comparison.variants) if comparison.tune else ()
    tuned = tuple(
        _row(comparison, each.variant, each.drawn[each.chosen], teacher) for each in trials if each.chosen is not None
    )
    measured = [result["teacher_accuracy"] for row in literature for result in row.finished.values()]
    accuracy = next((value for value in measured if value is not None), None)
    return Results(comparison, accuracy, literature, tuned, trials)


def to_run(results: Results) -> list[Run]:
    """The runs that are left to do, in their order."""
    return [each.run for each in results.outcomes if not each.settled]


def _row(comparison: Comparison, variant: Variant, drawn: dict[str, float], teacher: Teacher | None) -> Row:
    runs = [report_run(comparison, variant, drawn, seed, teacher) for seed in range(comparison.seeds)]
    return Row(variant, drawn, tuple(map(read_outcome, runs)))


def _trials(comparison: Comparison, variant: Variant, teacher: Teacher | None) -> Trials:
    drawn = tuple(tuning.trials(variant, comparison.tune))
    if len(drawn) == 1:
        # Every setting is fixed.
        return Trials(variant, drawn, (), 0)
    outcomes = tuple(
        read_outcome(trial_run(comparison, variant, settings, number, teacher)) for number, settings in enumerate(drawn)
    )
    return Trials(variant, drawn, outcomes, _choice(outcomes))


def _choice(outcomes: Sequence[Outcome]) -> int | None:
    # With a trial missing, the variants would not have been given the same number.
    if not all(each.settled for each in outcomes):
        return None
    return tuning.best_trial([None if each.state == DIVERGED else _validation(each) for each in outcomes])


def _validation(outcome: Outcome) -> float:
    assert outcome.result is not None
    accuracy = outcome.result["validation_accuracy"]
    if accuracy is None:
        raise ValueError(f"tune needs a validation split to choose on: {outcome.run.folder} has none")
    return float(accuracy)


def _interleaved(groups: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """The first of every group, then the second of every group, and so on."""
    longest = max(map(len, groups), default=0)
    return [group[position] for position in range(longest) for group in groups if position < len(group)]
