"""What a run tells of its steps and epochs, and to whom."""

from collections.abc import Sequence
from typing import NamedTuple

from training.models import Network
from training.state import EpochRecord


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
    """Is told what happens in the first of the processes; of broken images, in every one."""

    def on_step(self, report: StepReport) -> None:
        """Steps were done."""

    def on_epoch(self, record: EpochRecord, network: Network, trained: Network) -> None:
        """An epoch of the student's training was evaluated, as ``network`` is now: the student ``trained`` itself, or the
        moving average of its weights."""

    def on_broken(self, messages: Sequence[str]) -> None:
        """Images could not be read and were left out."""


class Observers(Observer):
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def on_step(self, report: StepReport) -> None:
        for observer in self.observers:
            observer.on_step(report)

    def on_epoch(self, record: EpochRecord, network: Network, trained: Network) -> None:
        for observer in self.observers:
            observer.on_epoch(record, network, trained)

    def on_broken(self, messages: Sequence[str]) -> None:
        for observer in self.observers:
            observer.on_broken(messages)
