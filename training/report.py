"""The tables and the pictures of runs."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib import pyplot as plt
from rich.table import Table
from torch import Tensor

from bickd_kernels import reference
from bickd_kernels.options import BicKDOptions
from training.state import EpochRecord, best_epoch
from training.storage import files

matplotlib.use("Agg")

Runs = dict[str, list[list[EpochRecord]]]
"""By method, the epochs of the run of each seed."""

HEADINGS = (
    "method", "test accuracy, last epoch", "difference to kd", "test accuracy, best epoch on validation",
    "training accuracy",
)  # fmt: skip
Cells = tuple[str, str, str, str, str]


class Spread(NamedTuple):
    """Mean and sample standard deviation (None of a single value) of ``number`` values."""

    mean: float
    deviation: float | None
    number: int

    def text(self, sign: str = "") -> str:
        """With two decimals; ``sign`` is that of a format."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:{sign}.2f}{deviation}"


def rows(runs: Runs) -> list[Cells]:
    """The table, one row for each method: mean and sample standard deviation over the seeds, in percent.

    Accuracies are of the last epoch where no other is named. The difference to kd, where it was run, is taken seed by seed.
    """
    tests = {method: [records[-1].test_accuracy for records in seeds] for method, seeds in runs.items()}
    return [
        (
            method,
            spread(tests[method]).text(),
            _difference(tests[method], tests.get("kd", tests[method])),
            spread([best_epoch(records).test_accuracy for records in seeds]).text(),
            spread([records[-1].train_accuracy for records in seeds]).text(),
        )
        for method, seeds in runs.items()
    ]


def _difference(own: list[float], reference: list[float]) -> str:
    """Nothing where a method would be compared with itself."""
    return "" if own is reference else spread([a - b for a, b in zip(own, reference, strict=True)]).text("+")


def spread(values: Sequence[float]) -> Spread:
    """Of one value at least."""
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def markdown(cells: list[Cells]) -> str:
    """The table in Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def terminal(cells: list[Cells], title: str) -> Table:
    """The table for a terminal."""
    table = Table(*HEADINGS, title=title)
    for line in cells:
        table.add_row(*line)
    return table


def summary(records: list[EpochRecord], title: str) -> Table:
    """What one run came to, for a terminal."""
    last, best = records[-1], best_epoch(records)
    table = Table("", "last epoch", "best epoch on validation", title=title)
    table.add_row("epoch", str(last.epoch), str(best.epoch))
    table.add_row("test accuracy", *(f"{record.test_accuracy:.2f} %" for record in (last, best)))
    if last.validation_accuracy is not None:
        table.add_row("validation accuracy", *(f"{record.validation_accuracy:.2f} %" for record in (last, best)))
    table.add_row("training accuracy", *(f"{record.train_accuracy:.2f} %" for record in (last, best)))
    for name in last.terms:
        table.add_row(name, *(f"{record.terms[name]:.4f}" for record in (last, best)))
    return table


def save_figure(figure: Any, path: Path, *, dpi: int) -> None:
    """Writes a figure as PNG and closes it."""
    files.write(path, lambda file: figure.savefig(file, format="png", dpi=dpi))
    plt.close(figure)


def plot_run(records: list[EpochRecord], path: Path, title: str) -> None:
    """Plots a run's accuracies over its epochs, and next to them its unweighted loss terms."""
    epochs = [record.epoch for record in records]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name in ("train_accuracy", "validation_accuracy", "test_accuracy"):
        values = [getattr(record, name) for record in records]
        if None not in values:
            left.plot(epochs, values, label=name.removesuffix("_accuracy"))
    for name in records[0].terms:
        right.plot(epochs, [record.terms[name] for record in records], label=name)
    left.set(xlabel="epoch", ylabel="accuracy (%)", title=title)
    right.set(xlabel="epoch", ylabel="loss term, unweighted", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path, dpi=120)


def plot_curves(runs: Runs, teacher_accuracy: float | None, path: Path) -> None:
    """Test accuracy of every method over the epochs: mean, and a band from the lowest seed to the highest."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for method, seeds in runs.items():
        curves = [[record.test_accuracy for record in records] for records in seeds]
        by_epoch = list(zip(*curves, strict=True))
        epochs = range(1, len(by_epoch) + 1)
        (line,) = axes.plot(epochs, [statistics.mean(values) for values in by_epoch], label=method)
        axes.fill_between(
            epochs, [min(values) for values in by_epoch], [max(values) for values in by_epoch],
            color=line.get_color(), alpha=0.2, linewidth=0,
        )  # fmt: skip
    if teacher_accuracy is not None:
        axes.axhline(teacher_accuracy, color="0.4", linestyle="--", linewidth=1, label="teacher")
    axes.set(xlabel="epoch", ylabel="test accuracy (%)", title="Students by method, mean and range over seeds")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path, dpi=150)


def class_similarity(student: Tensor, teacher: Tensor, temperature: float = BicKDOptions.bilateral_temperature) -> Tensor:
    """What the class side of the bilateral loss contrasts: ``M`` ``(C, C)`` in [0, 1] of logits ``(B, C)``; entry ``ij``:
    student class ``i``, teacher class ``j``."""
    u, z = (reference.unit_vectors(logits, temperature, 0, "cosine") for logits in (student, teacher))
    return u.T @ z


def plot_similarity(panels: dict[str, Tensor], path: Path) -> None:
    """Heat maps of class-wise similarity matrices ``(C, C)``, side by side on one scale."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels) + 0.8, 4.6), layout="constrained", squeeze=False)
    for axis, (title, similarity) in zip(axes[0], panels.items(), strict=True):
        image = axis.imshow(similarity.numpy(), vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        axis.set(title=title, xlabel="teacher's class")
    axes[0][0].set_ylabel("student's class")
    figure.colorbar(image, ax=list(axes[0]), label="class-wise similarity M", shrink=0.8)
    save_figure(figure, path, dpi=150)
