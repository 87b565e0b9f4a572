"""Trains one network: ``python -m training.train --method ce``, then the same command with a teacher.

Settings come from the command line, from a YAML file with ``--config``, or from both; the command line takes precedence.
``--preset`` selects a known recipe, which all other settings override. ``--evaluate CHECKPOINT`` replaces training.
"""

import dataclasses
import sys
from collections.abc import Sequence

from rich.console import Console

from training import exit_status
from training.command_line import given, parse
from training.config import GROUPS, Config
from training.loop import distributed
from training.loop.engine import NonFiniteLossError
from training.loop.interruption import Interrupted
from training.measurement import evaluate, origin_of
from training.messages import complain
from training.presets import PRESETS, Preset
from training.run import resume_command, run


def main(arguments: Sequence[str] | None = None, *, preset: str | None = None, command: str = "training.train") -> int:
    """Runs the training that the arguments describe.

    Args:
        arguments: command-line arguments; by default those of the process.
        preset: recipe whose values are the defaults.
        command: the command that the user ran, for the resume command.

    Returns:
        The exit status, see ``training.exit_status``.
    """
    console, config = Console(), None
    try:
        config = configure(sys.argv[1:] if arguments is None else arguments, preset)
        if config.evaluate is not None:
            evaluate(config, config.evaluate, console)
        else:
            run(config, console)
    except NonFiniteLossError as error:
        complain(f"error: {error}")
        return exit_status.DIVERGED
    except (ValueError, OSError) as error:
        complain(f"error: {error}")
        return exit_status.REFUSED
    except Interrupted as interrupted:
        assert config is not None
        complain(f"{interrupted}, checkpoint saved; resume with: {command} {resume_command(config)}")
        return exit_status.of_signal(interrupted.number)
    finally:
        distributed.stop()
    return exit_status.DONE


def configure(arguments: Sequence[str], preset: str | None = None) -> Config:
    """The settings in ``arguments``, which override those of a preset.

    Raises:
        ValueError: names the invalid setting.
    """
    preset = given(arguments, "preset") or preset
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    chosen = PRESETS[preset] if preset is not None else Preset({}, {}, "")
    # By default a checkpoint is evaluated on the data that it was trained on.
    origin = origin_of(given(arguments, "evaluate"), given(arguments, "dataset"))
    config = parse(
        Config, arguments, description=__doc__, defaults={"preset": preset, **chosen.config, **origin}, groups=GROUPS,
        presets={name: each.help for name, each in PRESETS.items()},
    )  # fmt: skip
    settings = {**chosen.settings.get(config.method, {}), **config.settings}
    return dataclasses.replace(config, settings=settings)


if __name__ == "__main__":
    sys.exit(main(command="python -m training.train"))
