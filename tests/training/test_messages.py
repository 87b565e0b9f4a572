"""Messages reach the terminal unchanged or escaped, whatever characters a file name has."""

from io import BytesIO, TextIOWrapper

import pytest
from rich.console import Console

from training.messages import complain, printable, say


@pytest.mark.parametrize(
    ("message", "encoding", "shown"),
    [
        ("cat [x].png", "utf-8", "cat [x].png"),
        ("[red]cat[/red] [/] :cat: a\\b", "utf-8", "[red]cat[/red] [/] :cat: a\\b"),
        ("café 猫", "utf-8", "café 猫"),
        ("café 猫", "latin-1", "café \\u732b"),
        ("café", "ascii", "caf\\xe9"),
        ("caf\udce9.png", "utf-8", "caf\\xe9.png"),
        ("caf\udce9.png", "ascii", "caf\\xe9.png"),
        ("\ud800.png", "utf-8", "\\ud800.png"),
        ("a\nb\x1b[2J\rc", "utf-8", "a\\nb\\x1b[2J\\rc"),
    ],
)
def test_a_name_is_shown_unchanged_or_escaped(message: str, encoding: str, shown: str) -> None:
    assert printable(message, encoding) == shown
    stream = TextIOWrapper(BytesIO(), encoding=encoding)
    say(Console(file=stream, force_terminal=False, width=20), f"left out: {message}")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == f"left out: {shown}\n"  # type: ignore[attr-defined]


def test_an_error_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    complain("error: [x]\nsecond\x1b line")
    assert capsys.readouterr().err == "error: [x]\nsecond\\x1b line\n"
