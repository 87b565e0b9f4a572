"""What is printed as it is: names of files have no markup, and a terminal may lack their characters."""

import sys

from rich.console import Console
from rich.text import Text


def say(console: Console, message: str, style: str = "") -> None:
    """Prints a message without reading markup or emoji in it."""
    console.print(Text(printable(message, console.encoding), style), soft_wrap=True)


def complain(message: str) -> None:
    """Prints a message of one or more lines to the standard error."""
    encoding = sys.stderr.encoding or "utf-8"
    print("\n".join(printable(line, encoding) for line in message.split("\n")), file=sys.stderr)


def printable(message: str, encoding: str = "utf-8") -> str:
    """The message with everything escaped that is no character of ``encoding``, or that a terminal would act on.

    Bytes of a name that are in no known encoding are shown as ``\\xe9``.
    """
    shown = "".join(character if character.isprintable() else _escaped(character) for character in message)
    return shown.encode(encoding, errors="backslashreplace").decode(encoding)


def _escaped(character: str) -> str:
    code = ord(character)
    # Where Python keeps a byte that it could not decode.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
