"""The figures of the tables and pictures: accuracies, differences and costs over the seeds of a row."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from training.compare.results import Results, Row

LAST, BEST = "test_accuracy", "best_test_accuracy"


class Spread(NamedTuple):
    """Mean and sample standard deviation (None of a single value) of ``number`` values."""

    mean: float
    deviation: float | None
    number: int


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation; None of no values."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.mean(values), deviation, len(values))


def accuracy(row: Row, key: str) -> Spread | None:
    """Test accuracy in percent over the seeds: ``LAST``, of the last epoch, or ``BEST``, of the best one on validation."""
    return spread([result[key] for result in row.finished.values()])


def difference(row: Row, reference: Row) -> Spread | None:
    """Last epoch's test accuracy minus that of ``reference``, in percent, by seed, over the seeds that both have."""
    own, other = row.finished, reference.finished
    return spread([own[seed][LAST] - other[seed][LAST] for seed in own if seed in other])


def step_milliseconds(row: Row) -> float | None:
    """Median over the seeds of the training time of a step, in milliseconds, with a first stage's time shared among them."""
    times = [1000 * result["seconds"] / result["steps"] for result in row.finished.values()]
    return statistics.median(times) if times else None


def find(rows: Sequence[Row], label: str) -> Row | None:
    """The row of the variant called ``label``."""
    return next((row for row in rows if row.variant.label == label), None)


def cost_reference(rows: Sequence[Row]) -> Row | None:
    """The row that costs are relative to: ce's, or without it kd's."""
    return find(rows, "ce") or find(rows, "kd")


def validated(results: Results) -> bool:
    """Whether the runs have a validation split."""
    found = [result for row in (*results.literature, *results.tuned) for result in row.finished.values()]
    return all(result["validation_accuracy"] is not None for result in found)
