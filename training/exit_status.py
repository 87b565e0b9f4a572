"""The exit statuses of this suite's commands."""

import signal

DONE = 0
INCOMPLETE = 1
"""A comparison in which a run failed or diverged."""
REFUSED = 2
"""Wrong settings or data."""
DIVERGED = 3
"""The loss is not finite."""


def of_signal(number: int) -> int:
    """The status after a signal, as in shells."""
    return 128 + signal.Signals(number)
