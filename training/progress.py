"""What a person sees while a run goes on: a progress bar in a terminal, a line an epoch elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.engine import EpochRecord


class RunProgress:
    """The progress of one run; use it as a context manager, its methods as the callbacks of ``engine.train``."""

    def __init__(self, console: Console, title: str, epochs: int) -> None:
        self.console, self.title, self.epochs = console, title, epochs
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task(title, total=None, state="")
        self.accuracy = ""

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        state = f"epoch {epoch}/{self.epochs} loss {loss:.3f}{self.accuracy}"
        self.bar.update(self.task, total=self.epochs * steps, completed=(epoch - 1) * steps + step, state=state)

    def on_epoch(self, record: EpochRecord) -> None:
        self.accuracy = f" validation {record.validation_accuracy:.1f} %"
        if not self.console.is_terminal:
            self.console.print(
                f"{self.title}: epoch {record.epoch}/{self.epochs}, loss {record.loss:.4f}, "
                f"validation {record.validation_accuracy:.2f} %, test {record.test_accuracy:.2f} %, "
                f"{record.seconds:.1f} s",
                soft_wrap=True,
            )
