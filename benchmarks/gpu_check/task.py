"""What a phase is made of: tasks, each with a name and a result of its own."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Task(NamedTuple):
    """One piece of a phase.

    Attributes:
        name: of the piece.
        run: does it, and returns what is to be known of it, ready for JSON; ``passed`` is False where something is wrong.
        seconds: after which it is stopped, of a session of ``session.SECONDS``; None: at the end of its phase.
    """

    name: str
    run: Callable[[], dict[str, Any]]
    seconds: float | None = None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other process of the session is in here: it has the GPU, or its memory, to itself."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def described(error: BaseException) -> str:
    """An exception in a line or a few."""
    return f"{type(error).__name__}: {str(error)[:400]}"
