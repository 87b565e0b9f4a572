"""Command lines for the dataclasses that hold settings: an option for each field, YAML files with ``--config``.

The command line overrides the file, the file overrides a preset, and a preset overrides the defaults of the class.
"""

import argparse
import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

Settings = TypeVar("Settings")

OTHERS = "others"
"""The group in ``--help`` for options that are in no other group."""


def parse(
    kind: type[Settings],
    arguments: Sequence[str],
    *,
    description: str,
    defaults: Mapping[str, Any] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    presets: Mapping[str, str] | None = None,
) -> Settings:
    """An instance of the dataclass ``kind``; option ``--batch-size``, or ``--batch_size``, sets its field ``batch_size``.

    Args:
        kind: a dataclass whose docstring, or that of a base class, has a line ``name: help`` for each field.
        arguments: the arguments of the command, without its name.
        description: the first lines of ``--help``.
        defaults: values that replace the class defaults, such as those of the preset that ``given`` found.
        groups: the fields of each ``--help`` group by its title, in the order of ``--help``.
        presets: the choices of the option ``--preset``, each with its help; without presets there is no such option.

    Raises:
        ValueError: a check of ``kind`` fails.
        SystemExit: an unknown option, a value of the wrong type, or ``--help`` and ``--print-config``, as in argparse.
    """
    # The parser would expand an abbreviation that ``given`` overlooked.
    parser = ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; options after it override it")
    if presets:
        told = "; ".join(f"{name}, {line}" for name, line in presets.items())
        parser.add_argument("--preset", choices=list(presets), help=f"a recipe; all other settings override it: {told}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    helps, types = _helps(kind), typing.get_type_hints(kind)
    for title, names in _grouped(fields, groups or {}).items():
        group = parser.add_argument_group(title)
        for name in names:
            # A flag accepts a value but does not need one.
            flag: dict[str, Any] = {"nargs": "?", "const": True} if types[name] is bool else {}
            option = "--" + name.replace("_", "-")
            group.add_argument(option, type=types[name], default=_default(fields[name]), help=helps[name], **flag)
    parser.set_defaults(dict(defaults or {}))
    lists = {name for name in fields if typing.get_origin(types[name]) is tuple}
    parsed = parser.parse_args(_with_lists(normalized(arguments), lists))
    return kind(**{name: parsed[name] for name in fields})


def given(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option in the arguments or in their configuration files, before the full parse."""
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scanner.add_argument("--config", action="append", default=[])
    scanner.add_argument("--" + option)
    try:
        found, _ = scanner.parse_known_args(normalized(arguments))
    except argparse.ArgumentError:
        return None
    values = [_in_file(file, option) for file in found.config]
    return next((str(value) for value in (getattr(found, option), *reversed(values)) if value is not None), None)


def normalized(arguments: Sequence[str]) -> list[str]:
    """The arguments with dashes in option names, and underscores in the names of a method's settings."""
    return [_normalized(argument) for argument in arguments]


def _in_file(file: str, option: str) -> Any:
    """An entry of a YAML file or YAML text; the parser reports errors in it."""
    try:
        text = Path(file).read_text() if Path(file).is_file() else file
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content.get(option) if isinstance(content, dict) else None


def _grouped(fields: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    grouped = {title: [name for name in names if name in fields] for title, names in groups.items()}
    named = {name for names in grouped.values() for name in names}
    grouped[OTHERS] = [name for name in fields if name not in named]
    return {title: names for title, names in grouped.items() if names}


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _helps(kind: type) -> dict[str, str]:
    """The lines ``name: help`` of the docstrings, base classes first."""
    docstrings = [inspect.cleandoc(each.__doc__ or "") for each in reversed(kind.__mro__)]
    return dict(re.findall(r"^ +(\w+): (.+)$", "\n".join(docstrings), flags=re.MULTILINE))


def _normalized(argument: str) -> str:
    """``--teacher_checkpoint=a_b`` as ``--teacher-checkpoint=a_b``; jsonargparse calls its own option ``--print_config``."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--"):
        return argument
    option, dot, setting = name.partition(".")
    option = option.replace("_", "-")
    option = "--print_config" if option == "--print-config" else option
    return "".join([option, dot, setting.replace("-", "_"), equals, value])


def _with_lists(arguments: Sequence[str], lists: set[str]) -> list[str]:
    """``--milestones 30 60`` as ``--milestones [30, 60]``, the form in which the parser accepts several values."""
    options = {"--" + name.replace("_", "-") for name in lists}
    parts = [part for each in arguments for part in (each.split("=", 1) if each.partition("=")[0] in options else [each])]
    joined: list[str] = []
    while parts:
        joined.append(parts.pop(0))
        if joined[-1] in options:
            end = next((place for place, part in enumerate(parts) if part.startswith("--")), len(parts))
            joined.append(_as_list(parts[:end]))
            del parts[:end]
    return joined


def _as_list(values: Sequence[str]) -> str:
    """Several values, or comma-separated numbers, as one list; a list stays as it is, even if split over arguments."""
    if values and values[0].startswith("["):
        return " ".join(values)
    several: list[int | str] = []
    for value in values:
        numbers = re.fullmatch(r"\d+(,\d+)*", value)
        several += [int(number) for number in value.split(",")] if numbers else [value]
    return json.dumps(several)
