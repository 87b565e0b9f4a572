"""The command that measures a checkpoint: ``python -m training.evaluate CHECKPOINT --split validation``.

It is ``python -m training.train --evaluate CHECKPOINT`` and takes its options, of which those of the data and of the
execution count. Without ``--dataset`` a checkpoint of this suite is measured on the one that it was trained on.
"""

import sys
from collections.abc import Sequence

from training import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures as the arguments say, the first of which may be the checkpoint.

    Returns:
        The exit status, see ``training.exit_status``.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-"):
        given = ["--evaluate", *given]
    return train.main(given, command="python -m training.evaluate")


if __name__ == "__main__":
    sys.exit(main())
