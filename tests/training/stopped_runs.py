"""Runs that stop right after they saved a checkpoint, as on a full disk."""

from pathlib import Path
from typing import Any

import pytest

from training.storage import files


def stop_after_save(patch: pytest.MonkeyPatch, epoch: int | None = None) -> None:
    """Makes the first save of last.pt, or the first in ``epoch``, the end of a run with status 2."""
    save = files.save

    def save_and_stop(path: Path, content: dict[str, Any]) -> None:
        save(path, content)
        if path.name == "last.pt" and epoch in (None, content["epoch"]):
            raise OSError("disk full")

    patch.setattr(files, "save", save_and_stop)
