"""The progress of a run: the record of every epoch, and the state from which an interrupted run resumes."""

from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from torch import Tensor


@dataclass(frozen=True)
class EpochRecord:
    """The results of one epoch.

    Accuracies are in percent; ``validation_accuracy`` is None without a validation split. ``terms`` are unweighted means
    over the epoch. ``seconds`` covers training alone. ``skipped``, ``validation_skipped`` and ``test_skipped`` count the
    images that could not be read.
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
    validation_skipped: int = 0
    test_skipped: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def best_epoch(records: list[EpochRecord]) -> EpochRecord:
    """The epoch with the highest validation accuracy, the first one in a tie; without a validation split the last epoch."""
    if records[-1].validation_accuracy is None:
        return records[-1]
    return max(records, key=lambda record: record.validation_accuracy or 0.0)


class OwnState(TypedDict):
    """The state of one process: random number generators, running statistics of batch norms, the sums of the epoch."""

    random: dict[str, Any]
    statistics: list[Tensor]
    tally: dict[str, Any]


class State(TypedDict):
    """Everything that the rest of a run depends on, in tensors and plain values.

    ``stage`` is "first" or "main"; ``step`` steps of ``epoch`` are done; ``records`` and ``best_epoch`` cover the completed
    epochs; ``data`` is the identity of the data set, ``teacher`` a hash of the teacher's weights, None without a teacher;
    ``ranks`` holds the state of each process.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    teacher: str | None
    stage: str
    epoch: int
    step: int
    learner: dict[str, Any]
    average: dict[str, Any] | None
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    seconds: float
    first_stage_seconds: float
    records: list[dict[str, Any]]
    best_epoch: int | None
    ranks: list[OwnState]
