"""Command lines of the dataclasses that hold settings: an option for each field, YAML files with ``--config``.

The command line is stronger than the file, the file stronger than a preset, a preset stronger than the class.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

Settings = TypeVar("Settings")


def parse(
    kind: type[Settings], arguments: Sequence[str], *, description: str, defaults: Mapping[str, Any] | None = None
) -> Settings:
    """An instance of the dataclass ``kind``; option ``--batch-size``, or ``--batch_size``, sets its field ``batch_size``.

    Args:
        kind: a dataclass that has, in its docstring or in that of a base, a line ``name: help`` for each field.
        arguments: of the command, without its name.
        description: the first lines of ``--help``.
        defaults: values that replace the class's own.

    Raises:
        ValueError: by the checks of ``kind``.
        SystemExit: an unknown option, a value of the wrong type, or ``--help`` and ``--print-config``, as argparse does it.
    """
    parser = ArgumentParser(description=description)
    parser.add_argument("--config", action="config", help="YAML file of settings; options after it are stronger")
    helps, types = _helps(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        option = "--" + field.name.replace("_", "-")
        # A flag needs no value, and takes one.
        flag: dict[str, Any] = {"nargs": "?", "const": True} if types[field.name] is bool else {}
        parser.add_argument(option, type=types[field.name], default=_default(field), help=helps[field.name], **flag)
    parser.set_defaults(dict(defaults or {}))
    parsed = parser.parse_args([_with_dashes(argument) for argument in arguments])
    return kind(**{field.name: parsed[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _helps(kind: type) -> dict[str, str]:
    """The lines ``name: help`` of the docstrings, of the bases first."""
    docstrings = [inspect.cleandoc(each.__doc__ or "") for each in reversed(kind.__mro__)]
    return dict(re.findall(r"^ +(\w+): (.+)$", "\n".join(docstrings), flags=re.MULTILINE))


def _with_dashes(argument: str) -> str:
    """``--teacher_checkpoint=a_b`` as ``--teacher-checkpoint=a_b``; jsonargparse itself says ``--print_config``."""
    option, *rest = re.split(r"(?=[=.])", argument, maxsplit=1)
    if not option.startswith("--"):
        return argument
    option = option.replace("_", "-")
    return "".join(["--print_config" if option == "--print-config" else option, *rest])
