"""Evaluates a checkpoint: ``python -m training.evaluate CHECKPOINT --split validation``.

It is the same as ``python -m training.train --evaluate CHECKPOINT`` and accepts the same options, of which only the data and
execution options matter. Without ``--dataset`` a checkpoint of this suite is evaluated on the data set it was trained on.
"""

import sys
from collections.abc import Sequence

from training import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the evaluation that the arguments describe; the first argument may be the checkpoint.

    Returns:
        The exit status, see ``training.exit_status``.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-"):
        given = ["--evaluate", *given]
    return train.main(given, command="python -m training.evaluate")


if __name__ == "__main__":
    sys.exit(main())
