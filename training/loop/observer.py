"""What the loop tells of steps and epochs, and to whom."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to.

    Accuracies are in percent, ``validation_accuracy`` is None without a validation split; ``terms`` are means over the
    epoch, unweighted; ``seconds`` are of training alone; ``skipped`` images could not be read.
    """

    epoch: int
    loss: float
    terms: dict[str, float]
    train_accuracy: float
    validation_accuracy: float | None
    test_accuracy: float
    steps: int
    seconds: float
    evaluation_seconds: float
    images_per_second: float
    learning_rate: float
    skipped: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class StepReport(NamedTuple):
    """Where a run is; ``loss``, ``terms`` and ``train_accuracy`` (percent) are means over the epoch so far, of this process.
    ``stage`` is "first" or "main"."""

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    train_accuracy: float
    images_per_second: float


class Observer:
    """Is told what happens in the first of the processes."""

    def on_step(self, report: StepReport) -> None:
        """Steps were done."""

    def on_epoch(self, record: EpochRecord) -> None:
        """An epoch of the student's training was evaluated."""

    def on_broken(self, messages: Sequence[str]) -> None:
        """Images could not be read and were left out."""


def best_epoch(records: list[EpochRecord]) -> EpochRecord:
    """The epoch of the highest validation accuracy, the first of equals; the last epoch without a validation split."""
    if records[-1].validation_accuracy is None:
        return records[-1]
    return max(records, key=lambda record: record.validation_accuracy or 0.0)
