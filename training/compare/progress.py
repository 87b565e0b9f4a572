"""What a person sees of a comparison: a line for each run that ends, in a terminal with a bar below."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.compare.outcomes import DIVERGED, FINISHED, Outcome, end_of_log


class GridProgress:
    """The progress of ``total`` runs, of which ``done`` had ended before; to be entered while it lasts."""

    def __init__(self, console: Console, total: int, done: int = 0) -> None:
        self.console, self.total, self.done = console, total, done
        self.bar = Progress(
            TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task("runs", total=total, completed=done)

    def __enter__(self) -> "GridProgress":
        if self.done:
            self._print(f"{self.done}/{self.total} are done already")
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def on_end(self, outcome: Outcome) -> None:
        """Counts a run that ended, and shows the end of its log if it failed."""
        self.done += 1
        self.bar.update(self.task, completed=self.done)
        start = f"{self.done}/{self.total}"
        if outcome.state == FINISHED and outcome.result is not None:
            self._print(f"{start} done, {outcome.run.title}: {outcome.result['test_accuracy']:.1f} %")
            return
        word = "diverged" if outcome.state == DIVERGED else "failed"
        self._print(f"{start} {word}, {outcome.run.title}; the end of {outcome.run.folder}/log.txt:")
        self._print(end_of_log(outcome.run))

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)
