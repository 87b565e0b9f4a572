"""The checks of documents find broken links, unknown names and failing code blocks."""

from pathlib import Path

import pytest
from document import Block, Document, documents, run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of two documents and one target of make."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "training").mkdir()
    (tmp_path / "Makefile").write_text("test: install ## run the tests\n\techo\n")
    (tmp_path / "training" / "train.py").write_text("")
    (tmp_path / "docs" / "other.md").write_text("# The `loss`, in 2 parts\n\n## Twice\n\n## Twice\n")
    return tmp_path


def written(root: Path, text: str) -> Document:
    path = root / "docs" / "page.md"
    path.write_text(text)
    return Document(path, root)


@pytest.mark.parametrize(
    "target",
    [
        "other.md", "../training", "other.md#the-loss-in-2-parts", "other.md#twice-1", "#here",
        "https://arxiv.org/abs/2602.01265#v1",
    ],
)  # fmt: skip
def test_a_link_that_leads_somewhere_is_not_reported(root: Path, target: str) -> None:
    assert written(root, f"# Here\n\nSee [this]({target}).\n").broken_links() == []


@pytest.mark.parametrize(
    "target",
    [
        "missing.md", "other.md#missing", "#missing", "other.md#twice-2", "../training/train.py#here", "../../outside",
        "/etc", "https:/arxiv.org", "https://arxiv", "htps://arxiv.org", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["[this]({})", "![this]({})", '<img src="{}">', "| a |\n|---|\n| [this]({}) |"])
def test_a_broken_link_is_reported_with_its_line(root: Path, target: str, form: str) -> None:
    (root.parent / "outside").touch()
    line = 5 if form.startswith("|") else 3
    assert written(root, "# Here\n\n" + form.format(target)).broken_links() == [f"page.md:{line}: {target}"]


def test_a_link_in_code_is_not_checked(root: Path) -> None:
    assert written(root, "`[this](missing.md)`\n\n    [this](missing.md)\n").broken_links() == []


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("`training/train.py` and `training`", []),
        ("`training/gone.py`", ["training/gone.py"]),
        ("`make test`", []),
        ("    make tset  # runs the tests", ["make tset"]),
        ("`python -m training.train --help`", []),
        ("```bash\n.venv/bin/python -m training.trian\n```", ["training.trian"]),
    ],
)
def test_names_of_missing_files_targets_and_modules_are_reported(root: Path, text: str, unknown: list[str]) -> None:
    assert written(root, text).unknown_names() == [f"page.md:1: {name}" for name in unknown]


def test_marked_blocks_are_found_with_their_line_language_and_hidden_lines(root: Path) -> None:
    text = "<!-- runnable\nx = 1\n-->\n```python\nx\n```\n\n```python\ny\n```\n\n<!-- runnable -->\n    echo\n"
    document = written(root, text)
    assert list(document.runnable()) == [
        Block(document.path, 4, "python", "x = 1\nx\n"),
        Block(document.path, 13, "shell", "\necho\n"),
    ]


def test_a_mark_without_a_block_is_an_error(root: Path) -> None:
    with pytest.raises(ValueError, match=r"page.md: no code block follows"):
        list(written(root, "<!-- runnable -->\n\nText.\n\n    echo\n").runnable())


def marked(root: Path, language: str, text: str) -> Block:
    (block,) = written(root, f"<!-- runnable -->\n```{language}\n{text}\n```\n").runnable()
    return block


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "raise KeyError('planted')"),
        ("bash", "echo planted; false; true"),
        ("bash", "(echo planted; exit 3) | cat"),
    ],
)
def test_a_block_that_fails_is_an_error_with_what_it_printed(root: Path, tmp_path: Path, language: str, text: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(AssertionError, match=r"page.md:2(.|\n)*planted"):
        run(marked(root, language, text), root, folder)


@pytest.mark.parametrize(("language", "text"), [("python", "import time; time.sleep(60)"), ("bash", "sleep 60 | cat")])
def test_a_block_that_does_not_end_is_an_error(root: Path, tmp_path: Path, language: str, text: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(AssertionError, match="time limit exceeded"):
        run(marked(root, language, text), root, folder, seconds=0.5)


def test_a_script_has_the_files_of_the_project_and_writes_only_to_a_copy(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run(marked(root, "bash", "test -f training/train.py\necho > training/new\nmkdir runs"), root, folder)
    assert (folder / "training" / "new").exists()
    assert not (root / "training" / "new").exists()
    assert not (root / "runs").exists()


def test_the_documents_of_a_project_are_found(root: Path) -> None:
    (root / "README.md").touch()
    assert [str(path.relative_to(root)) for path in documents(root)] == ["README.md", "docs/other.md"]
