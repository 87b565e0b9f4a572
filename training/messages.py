"""Prints messages literally: file names are not markup, and a terminal may lack their characters."""

import sys

from rich.console import Console
from rich.text import Text


def say(console: Console, message: str, style: str = "") -> None:
    """Prints a message without interpreting markup or emoji codes."""
    console.print(Text(printable(message, console.encoding), style), soft_wrap=True)


def complain(message: str) -> None:
    """Prints a message of one or more lines to standard error."""
    encoding = sys.stderr.encoding or "utf-8"
    print("\n".join(printable(line, encoding) for line in message.split("\n")), file=sys.stderr)


def printable(message: str, encoding: str = "utf-8") -> str:
    """The message with every character escaped that ``encoding`` lacks or that a terminal would act on.

    Bytes of a name in an unknown encoding are shown as ``\\xe9``.
    """
    shown = "".join(character if character.isprintable() else _escaped(character) for character in message)
    return shown.encode(encoding, errors="backslashreplace").decode(encoding)


def _escaped(character: str) -> str:
    code = ord(character)
    # Python keeps undecodable bytes in this range.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
