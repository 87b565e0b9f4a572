"""The command that trains one network: ``python -m training.train --method ce``, then the same with a teacher.

Settings come from the command line, from a YAML file with ``--config``, or from both, the command line winning.
"""

import sys

from jsonargparse import auto_cli
from rich.console import Console

from training.config import Config
from training.engine import NonFiniteLossError
from training.run import run


def main(arguments: list[str] | None = None) -> int:
    """Parses the arguments, trains, and returns the exit status."""
    console = Console()
    try:
        config = auto_cli(Config, args=arguments)
        run(config, console)
    except (ValueError, OSError, NonFiniteLossError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
