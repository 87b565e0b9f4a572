"""Reports of a run's steps and epochs, and the observers that receive them."""

from collections.abc import Sequence
from typing import NamedTuple

from training.models import Network
from training.state import EpochRecord


class StepReport(NamedTuple):
    """The progress of a run; ``loss``, ``terms`` and ``train_accuracy`` (percent) are this process's means over the epoch so
    far. ``stage`` is "first" or "main"."""

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
    """Receives the events of the first process, and reports of broken images from every process."""

    def on_step(self, report: StepReport) -> None:
        """Steps were completed."""

    def on_epoch(self, record: EpochRecord, network: Network, trained: Network) -> None:
        """An epoch of the student's training was evaluated on ``network``: the student ``trained`` itself, or the moving
        average of its weights."""

    def on_broken(self, messages: Sequence[str]) -> None:
        """Images could not be read and were left out."""


class Observers(Observer):
    """Forwards events to several observers."""

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
