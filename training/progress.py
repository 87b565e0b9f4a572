"""What the user sees during a run: a progress bar for each epoch in a terminal, otherwise one line per epoch."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.messages import say
from training.models import Network
from training.observer import Observer, StepReport
from training.state import EpochRecord

NAMED = 5
"""Broken images that are named individually; the rest are counted."""


class RunProgress(Observer):
    """A context manager that shows the progress of one run."""

    def __init__(self, console: Console, title: str, epochs: int) -> None:
        self.console, self.title, self.epochs = console, title, epochs
        self.bar = Progress(
            # A narrow terminal cuts off the end.
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"), console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task(title, total=None, state="")
        self.shown = ("", 0)
        self.broken: set[str] = set()

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()
        if len(self.broken) > NAMED:
            say(self.console, f"{self.title}: {len(self.broken)} images could not be read and were left out")

    def on_step(self, report: StepReport) -> None:
        if self.shown != (report.stage, report.epoch):
            self.bar.reset(self.task, total=report.steps)
            self.shown = (report.stage, report.epoch)
        terms = " ".join(f"{name} {value:.3f}" for name, value in {"loss": report.loss, **report.terms}.items())
        accuracy = f" accuracy {report.train_accuracy:.1f} %" if report.stage == "main" else ""
        self.bar.update(
            self.task, completed=report.step, state=f"{report.images_per_second:.0f} images/s{accuracy} {terms}",
            description=f"{self.title}{' first stage,' if report.stage == 'first' else ','} "
            f"epoch {report.epoch}/{report.epochs}",
        )  # fmt: skip
        if report.stage == "first" and report.step == report.steps and not self.console.is_terminal:
            say(self.console, f"{self.title}: first stage, epoch {report.epoch}/{report.epochs}, loss {report.loss:.4f}")

    def on_epoch(self, record: EpochRecord, network: Network, trained: Network) -> None:
        validation = "" if record.validation_accuracy is None else f"validation {record.validation_accuracy:.2f} %, "
        say(
            self.console,
            f"{self.title}: epoch {record.epoch}/{self.epochs}, loss {record.loss:.4f}, {validation}"
            f"test {record.test_accuracy:.2f} %, {record.seconds:.1f} s, {record.images_per_second:.0f} images/s"
            f"{_left_out(record)}",
        )

    def on_broken(self, messages: Sequence[str]) -> None:
        for message in messages:
            # Every epoch reports the image again.
            if message not in self.broken:
                self.broken.add(message)
                if len(self.broken) <= NAMED:
                    say(self.console, f"left out: {message}")


def _left_out(record: EpochRecord) -> str:
    counts = {"": record.skipped, " of validation": record.validation_skipped, " of test": record.test_skipped}
    told = [f"{count}{part}" for part, count in counts.items() if count]
    return f", {' and '.join(told)} images left out" if told else ""
