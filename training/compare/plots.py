"""The plots: accuracy by method, time per step, accuracy against training time."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from training.compare.results import LAST, Results, Row
from training.compare.runs import Outcome
from training.report import save_figure

Curve = tuple[list[float], list[float]]
"""Seconds of training, and test accuracies in percent."""


def draw(results: Results, folder: Path) -> None:
    """Writes accuracy.png, cost.png and accuracy_against_time.png."""
    for name, plot in {
        "accuracy.png": plot_accuracy, "cost.png": plot_cost, "accuracy_against_time.png": plot_against_time,
    }.items():  # fmt: skip
        save_figure(plot(results), folder / name, dpi=150)


def plot_accuracy(results: Results) -> Any:
    """One row per variant: its seeds as points, overlaid with mean and standard deviation; tuned variants next to it."""
    labels = [row.variant.label for row in results.literature]
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.55 * len(labels)), layout="constrained")
    blocks = {"literature's settings": results.literature, "tuned": results.tuned if results.trials else ()}
    for number, (name, rows) in enumerate((name, rows) for name, rows in blocks.items() if rows):
        colour, offset = f"C{number}", 0.15 * (2 * number - 1) if results.tuned else 0.0
        for row in rows:
            height = labels.index(row.variant.label) + offset
            values = [result[LAST] for result in row.finished.values()]
            axes.plot(values, [height] * len(values), "o", color=colour, markerfacecolor="none", markersize=7)
            found = row.value(LAST)
            if found is not None:
                axes.errorbar(found.mean, height, xerr=found.deviation, fmt="D", color=colour, capsize=3, markersize=4)
        axes.plot([], [], "D", color=colour, label=name)
    if results.teacher_accuracy is not None:
        axes.axvline(results.teacher_accuracy, color="0.4", linestyle="--", linewidth=1, label="teacher")
    axes.set_yticks(range(len(labels)), [_one_setting_per_line(label) for label in labels])
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, last epoch (%)", title="Seeds, mean and standard deviation")
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def plot_cost(results: Results) -> Any:
    """The time of a training step with the literature's settings: the median as a bar, the seeds as points."""
    labels = [row.variant.label for row in results.literature]
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.45 * len(labels)), layout="constrained")
    for height, row in enumerate(results.literature):
        axes.barh(height, row.step_time or 0.0, color="C0", alpha=0.6)
        axes.plot(row.step_times, [height] * len(row.step_times), "o", color="0.2", markersize=3)
    axes.set_yticks(range(len(labels)), [_one_setting_per_line(label) for label in labels])
    axes.invert_yaxis()
    axes.set(xlabel="training time per step (ms), median and seeds", title="Time per training step")
    axes.grid(alpha=0.3, axis="x")
    return figure


def plot_against_time(results: Results) -> Any:
    """Mean test accuracy against mean training time, one panel for the literature's settings and one for tuned ones."""
    blocks = [("Settings of the literature", results.literature)]
    if results.tuned:
        blocks.append(("Tuned settings", results.tuned))
    figure, axes = plt.subplots(
        1, len(blocks), figsize=(6.5 * len(blocks), 4.5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (title, rows) in zip(axes[0], blocks, strict=True):
        for row, (line, colour) in zip(rows, _styles(rows), strict=True):
            seconds, accuracies = mean_curve(row.outcomes)
            axis.plot(seconds, accuracies, line, marker=".", color=colour, label=row.variant.label)
        axis.set(xlabel="training time (s), mean over the seeds", title=title)
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right", fontsize="small")
    axes[0][0].set_ylabel("test accuracy (%), mean over the seeds")
    return figure


def mean_curve(outcomes: Sequence[Outcome]) -> Curve:
    """Means over the finished runs, epoch by epoch; the time of a first stage is added before the first epoch."""
    curves = [_curve(each) for each in outcomes if each.result is not None]
    epochs = list(zip(*curves, strict=True))
    return [statistics.mean(time for time, _ in runs) for runs in epochs], [
        statistics.mean(reached for _, reached in runs) for runs in epochs
    ]


def _curve(outcome: Outcome) -> list[tuple[float, float]]:
    assert outcome.result is not None
    times = itertools.accumulate(
        (epoch["seconds"] for epoch in outcome.epochs), initial=outcome.result["first_stage_seconds"]
    )
    return list(zip(list(times)[1:], (epoch["test_accuracy"] for epoch in outcome.epochs), strict=True))


def _one_setting_per_line(label: str) -> str:
    # A label of several settings would leave no room for the axes.
    return label.replace(":", ":\n").replace(",", ",\n")


def _styles(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Ten colours, then the same colours with another line style."""
    return [(("-", "--", ":")[number // 10 % 3], f"C{number % 10}") for number in range(len(rows))]
