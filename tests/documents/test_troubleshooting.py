"""Every message that docs/troubleshooting.md quotes is in the source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from document import Document

ROOT = Path(__file__).parents[2]
PAGE = Document(ROOT / "docs" / "troubleshooting.md", ROOT)
QUOTED = [line for token in PAGE.tokens if token.info == "text" for line in token.content.splitlines()]


def patterns(tree: ast.AST) -> Iterator[re.Pattern[str]]:
    """A pattern for each string and f-string of a module that has enough fixed text to be recognized, except docstrings."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in documentation:
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        fixed = [part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else None for part in parts]
        if sum(len(text or "") for text in fixed) >= 20:
            yield re.compile("".join(".*" if text is None else re.escape(text) for text in fixed))


MESSAGES = [
    pattern
    for package in ("bickd_kernels", "training")
    for path in (ROOT / package).rglob("*.py")
    for pattern in patterns(ast.parse(path.read_text(encoding="utf-8")))
]


def is_one_of_the_source(message: str) -> bool:
    """Whether the source has the whole message, with or without the name of its exception."""
    text = re.sub(r"^\w+: ", "", message)
    return any(pattern.fullmatch(line) for pattern in MESSAGES for line in (message, text))


def test_the_page_quotes_messages() -> None:
    # Without any, the next test would be skipped.
    assert QUOTED


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_source(message: str) -> None:
    assert is_one_of_the_source(message)


@pytest.mark.parametrize(
    "message",
    [
        "ValueError: batch_size must be a multiple of ranks, got 64",
        "WARNING: teacher is near chance",
        "error: nothing of this",
    ],
)
def test_a_message_that_is_not_in_the_source_is_detected(message: str) -> None:
    assert not is_one_of_the_source(message)


def test_a_docstring_is_no_message() -> None:
    module = ast.parse('"""The weight must not be negative."""\nerror = "the weight must not be zero"')
    (pattern,) = patterns(module)
    assert pattern.fullmatch("the weight must not be zero")
