"""The Markdown documents of the project: what they link to and name, and the code blocks in them that can run.

A code block runs if ``<!-- runnable -->`` stands on the line before it. Further lines of that comment run before the block,
unseen by readers:

    <!-- runnable
    import torch
    -->
    ```python
    print(torch.rand(2))
    ```

A ``python`` block is a program of its own and runs in an empty folder. Any other block is a bash script and runs in a copy
of the project. Both have a time limit.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

PARSER = MarkdownIt("commonmark").enable("table")
MARK = re.compile(r"\s*<!-- runnable\b(.*?)-->\s*", re.DOTALL)
NAMED_FILE = re.compile(r"(?:benchmarks|bickd_kernels|docs|tests|training)/[\w./-]*")
NAMED_TARGET = re.compile(r"make ([a-z-]+)")
NAMED_MODULE = re.compile(r"(?:\.venv/bin/)?python3? -m ((?:benchmarks|bickd_kernels|training)\b[\w.]*)")
SECONDS = {"python": 120, "shell": 1200}
NOT_COPIED = ("runs", "data", "build", "dist")


class Block(NamedTuple):
    """A code block that can run: its document, the line of its first word, ``python`` or ``shell``, and what to run."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


class Document:
    """One Markdown file of the project in the folder ``root``."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        self.tokens = PARSER.parse(path.read_text(encoding="utf-8"))

    @cached_property
    def inline(self) -> list[tuple[int, Token]]:
        """Every piece of running text with the line that its paragraph begins on."""
        return [(token.map[0] + 1, child) for token in self.tokens if token.map for child in token.children or [token]]

    @cached_property
    def anchors(self) -> set[str]:
        """What a fragment can name: headings, spelt as GitHub spells them, and explicit anchors."""
        found: list[str] = []
        for opening, content in pairwise(self.tokens):
            if opening.type == "heading_open":
                text = "".join(child.content for child in content.children or [] if child.type in ("text", "code_inline"))
                slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                # A second heading with the same text becomes text-1.
                found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
        return {*found, *re.findall(r'<a (?:id|name)="([^"]+)"', self.path.read_text(encoding="utf-8"))}

    def links(self) -> Iterator[tuple[int, str]]:
        """The target of every link and picture, and its line."""
        for line, token in self.inline:
            if token.type in ("link_open", "image"):
                yield line, str(token.attrGet("href") or token.attrGet("src") or "")
            if token.type in ("html_inline", "html_block"):
                yield from ((line, target) for target in re.findall(r'(?:href|src)="([^"]*)"', token.content))

    def broken_links(self) -> list[str]:
        """The broken links. Only the form of links to other hosts is checked."""
        return [f"{self.path.name}:{line}: {target}" for line, target in self.links() if not self._leads_somewhere(target)]

    def _leads_somewhere(self, target: str) -> bool:
        if not target:
            return False
        parts = urlsplit(target)
        if parts.scheme:
            return parts.scheme in ("http", "https") and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc) is not None
        file = (self.path.parent / unquote(parts.path)).resolve() if parts.path else self.path
        if not file.exists() or not file.is_relative_to(self.root.resolve()):
            return False
        if not parts.fragment:
            return True
        return file.suffix == ".md" and parts.fragment in Document(file, self.root).anchors

    def unknown_names(self) -> list[str]:
        """Files, targets of make and modules in code style, in text or blocks, that do not exist."""
        targets = set(re.findall(r"^([a-z-]+):", (self.root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        texts = [
            (line, token.content) for line, token in self.inline if token.type in ("code_inline", "fence", "code_block")
        ]
        unknown = []
        for line, text in texts:
            files = [text] if NAMED_FILE.fullmatch(text) else []
            wrong = [name for name in files if not (self.root / name).exists()]
            wrong += [f"make {name}" for name in NAMED_TARGET.findall(text) if name not in targets]
            wrong += [name for name in NAMED_MODULE.findall(text) if not self._is_module(name)]
            unknown += [f"{self.path.name}:{line}: {name}" for name in wrong]
        return unknown

    def _is_module(self, name: str) -> bool:
        path = self.root / name.rstrip(".").replace(".", "/")
        return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()

    def runnable(self) -> Iterator[Block]:
        """The marked blocks.

        Raises:
            ValueError: a mark is not followed by a code block.
        """
        for comment, code in pairwise([*self.tokens, Token("end", "", 0)]):
            marked = MARK.fullmatch(comment.content) if comment.type == "html_block" else None
            if marked is None:
                continue
            if code.type not in ("fence", "code_block") or code.map is None:
                raise ValueError(f"{self.path.name}: no code block follows the comment {comment.content.strip()!r}")
            language = "python" if code.info.strip() == "python" else "shell"
            yield Block(self.path, code.map[0] + 1, language, f"{marked[1].strip()}\n{code.content}")


def documents(root: Path) -> list[Path]:
    """Every Markdown file of the project."""
    return sorted(
        [*root.glob("*.md"), *(path for name in ("docs", "bickd_kernels") for path in (root / name).rglob("*.md"))]
    )


def run(block: Block, root: Path, folder: Path, seconds: float | None = None) -> None:
    """Runs a block in the empty ``folder``.

    Raises:
        AssertionError: it failed, or took longer than ``seconds``; the message has all that it printed.
    """
    if block.language == "python":
        (folder / "block.py").write_text(block.text, encoding="utf-8")
        command, path = [sys.executable, "block.py"], str(root)
    else:
        _copy(root, folder)
        command, path = ["bash", "-euo", "pipefail", "-c", block.text], ""
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = process.communicate(timeout=seconds or SECONDS[block.language])
    except subprocess.TimeoutExpired:
        # Kills the whole session, because a script's programs outlive bash.
        os.killpg(process.pid, signal.SIGKILL)
        printed = process.communicate()[0] + "\ntime limit exceeded"
    assert process.returncode == 0, f"{block}\n{block.text}\n{printed}"


def _copy(root: Path, folder: Path) -> None:
    """Copies the project without its builds and runs, so that a script can name its files and write beside them."""
    for entry in root.iterdir():
        if entry.name in NOT_COPIED or entry.name.startswith(".") or entry.suffix == ".egg-info":
            continue
        if entry.is_dir():
            shutil.copytree(entry, folder / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(entry, folder)
    if (root / ".venv").exists():
        (folder / ".venv").symlink_to(root / ".venv")
