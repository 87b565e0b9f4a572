"""Compares methods: trains one teacher, then every method with every seed under that teacher.

Finished runs are not repeated, and interrupted runs resume from their last checkpoint: to continue, run the same command.
The results are in the folder --output: results.md, results.json and plots.
"""

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from training import exit_status
from training.command_line import parse
from training.compare import plots, tables
from training.compare.comparison import Comparison
from training.compare.jobs import GridProgress, execute
from training.compare.results import Results, as_json, load_results, to_run
from training.compare.runs import FINISHED, Outcome, TeacherFile, read_outcome, read_teacher, teacher_run
from training.config import GROUPS
from training.loop.interruption import Interrupted
from training.messages import complain, say
from training.storage import files
from training.storage.run_folder import CHECKPOINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison that the arguments describe.

    Args:
        arguments: command-line arguments; by default those of the process.

    Returns:
        The exit status, see ``training.exit_status``.
    """
    console = Console()
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        comparison = parse(Comparison, arguments, description=__doc__, groups=GROUPS)
        with locked(comparison.output) as lock:
            return compare(comparison, console, lock)
    except (ValueError, OSError) as error:
        complain(f"error: {error}")
        return exit_status.REFUSED
    except (Interrupted, KeyboardInterrupt) as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        name = signal.Signals(number).name
        print(f"stopped by {name}, runs are saved; run the same command again to continue", file=sys.stderr)
        return exit_status.of_signal(number)


def compare(comparison: Comparison, console: Console, lock: int | None = None) -> int:
    """Trains the unfinished runs and writes the results.

    Args:
        comparison: the settings.
        console: for the progress and the tables.
        lock: file descriptor that the processes of the runs inherit.

    Returns:
        ``DONE``, or ``INCOMPLETE`` if a run failed or diverged.

    Raises:
        Interrupted: a signal arrived; the runs are saved.
        OSError: a file could not be read or written.
    """
    teacher = None
    if any(variant.needs_teacher for variant in comparison.variants):
        teacher = _ready_teacher(comparison, console, lock)
        if teacher is None:
            return exit_status.INCOMPLETE
    try:
        _train_students(comparison, teacher, console, lock)
    finally:
        results = load_results(comparison, teacher)
        write(results)
        plots.draw(results, comparison.output)
    for cells in tables.tables(results):
        console.print(tables.terminal(cells))
    for note in tables.notes(results):
        say(console, note)
    say(console, f"results.md, results.json and plots are in {comparison.output}")
    return _status(results)


def write(results: Results) -> None:
    """Writes results.md and results.json."""
    files.write_text(results.comparison.output / "results.md", tables.document(results))
    files.write_text(results.comparison.output / "results.json", as_json(results))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keeps other comparisons out of ``folder``, even while runs of a killed comparison are still active.

    Raises:
        ValueError: another comparison uses the folder.
        OSError: the lock file is a symbolic link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"output {folder} is in use by another comparison, or by a run that one left behind") from error
        yield descriptor
    finally:
        os.close(descriptor)


def _ready_teacher(comparison: Comparison, console: Console, lock: int | None) -> TeacherFile | None:
    """The teacher, trained unless a checkpoint is given or its run is finished; None if its training failed."""
    if comparison.teacher_checkpoint is not None:
        return read_teacher(comparison.teacher_checkpoint)
    run = teacher_run(comparison)
    if not read_outcome(run).settled:
        with GridProgress(console, 1) as progress:
            execute([run], 1, progress.on_end, lock=lock)
    if read_outcome(run).state != FINISHED:
        say(console, f"the teacher's training failed, so nothing can be compared; its log is in {run.folder}")
        return None
    return read_teacher(run.folder / CHECKPOINT)


def _train_students(comparison: Comparison, teacher: TeacherFile | None, console: Console, lock: int | None) -> None:
    """Trains with the literature's settings and the trials first, then with the settings that the trials chose."""
    attempted: set[Path] = set()
    while True:
        results = load_results(comparison, teacher)
        runs = [run for run in to_run(results) if run.folder not in attempted]
        total = len(results.outcomes)
        if not runs:
            return
        attempted |= {run.folder for run in runs}
        with GridProgress(console, total, total - len(runs)) as progress:

            def on_end(outcome: Outcome, progress: GridProgress = progress) -> None:
                progress.on_end(outcome)
                write(load_results(comparison, teacher))

            execute(runs, comparison.jobs, on_end, lock=lock)


def _status(results: Results) -> int:
    """Incomplete if a report run has no result or a trial failed; a diverged trial counts as a result of tuning."""
    reported = [each for row in (*results.literature, *results.tuned) for each in row.outcomes]
    incomplete = any(each.state != FINISHED for each in reported) or any(not each.settled for each in results.outcomes)
    return exit_status.INCOMPLETE if incomplete else exit_status.DONE


if __name__ == "__main__":
    sys.exit(main())
