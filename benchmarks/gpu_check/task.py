"""A phase consists of tasks, each with a name and its own result."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Task(NamedTuple):
    """One task of a phase.

    Attributes:
        name: of the task.
        run: runs it and returns its result, ready for JSON; ``passed`` is False if something is wrong.
        seconds: time limit in a session of ``session.SECONDS``; None: until the end of its phase.
    """

    name: str
    run: Callable[[], dict[str, Any]]
    seconds: float | None = None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A lock among the processes of a session, for exclusive use of the GPU or its memory."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def described(error: BaseException) -> str:
    """An exception in one or a few lines."""
    return f"{type(error).__name__}: {str(error)[:400]}"
