"""What the commands of this suite end with."""

import signal

DONE = 0
INCOMPLETE = 1
"""A comparison in which a run failed or diverged."""
REFUSED = 2
"""Wrong settings or data."""
DIVERGED = 3
"""A loss that is not finite."""


def of_signal(number: int) -> int:
    """The status after a signal, as shells have it."""
    return 128 + signal.Signals(number)
