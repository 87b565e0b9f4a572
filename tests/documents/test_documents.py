"""Links, names and runnable code blocks of every document. `make docs` also runs the shell blocks, which are slow."""

from pathlib import Path

import pytest
from document import Block, Document, documents, run

ROOT = Path(__file__).parents[2]
DOCUMENTS = [Document(path, ROOT) for path in documents(ROOT)]
BLOCKS = [block for document in DOCUMENTS for block in document.runnable()]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.path.relative_to(ROOT)))


@every_document
def test_every_link_leads_somewhere(document: Document) -> None:
    assert document.broken_links() == []


@every_document
def test_every_named_file_target_and_module_exists(document: Document) -> None:
    assert document.unknown_names() == []


def test_the_index_lists_every_document() -> None:
    listed = {target.partition("#")[0] for _, target in Document(ROOT / "docs" / "README.md", ROOT).links()}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_a_python_block_runs(block: Block, tmp_path: Path) -> None:
    run(block, ROOT, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "shell"], ids=str)
def test_a_shell_block_runs(block: Block, tmp_path: Path) -> None:
    run(block, ROOT, tmp_path)
