"""Writes files atomically, and reads them without executing code.

A path that the user names, such as the folder of a run, may be a symbolic link or lie behind one. Inside it nothing is
written through a link: someone else may have put it there.
"""

import os
import re
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Writes a file atomically: ``fill`` writes a temporary file, which is flushed to disk and then renamed to ``path``.

    A symbolic link at ``path`` is replaced; its target does not change.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not from tempfile, whose files only their owner can read.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    # Outside the clean-up, which must not remove a file that already existed.
    file = temporary.open("xb")
    try:
        with file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, as ``write`` does."""
    write(path, lambda file: file.write(text.encode()))


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Writes tensors and plain values for ``read``, as ``write`` does."""
    write(path, lambda file: torch.save(content, file))


def append(path: Path) -> BinaryIO:
    """Opens ``path`` for reading and appending, and creates it if it does not exist.

    Raises:
        OSError: the path is a symbolic link.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "a+b")


def make_folder(folder: Path) -> None:
    """Creates ``folder``, if it does not exist, in a folder that the user named.

    Raises:
        ValueError: the folder is a symbolic link.
    """
    if not folder.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
    # Checked after creation: a link could have been put there until then.
    if folder.is_symlink():
        raise ValueError(f"{folder} must be a folder, got a symbolic link")


def read(path: Path) -> Any:
    """Reads what ``save`` wrote, on the CPU.

    Raises:
        ValueError: the file is truncated or corrupted, or holds more than tensors and plain values.
    """
    try:
        # torch.load does not verify the archive's checksums.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"checksum of {broken} does not match")
        return torch.load(path, map_location="cpu", weights_only=True)
    # A file that is not a pickle can raise any exception.
    except Exception as error:
        raise ValueError(refusal(path, error)) from error


def refusal(path: Path, error: Exception) -> str:
    """The message for a file that ``torch.load`` refused, without its advice to disable the safety check."""
    told = str(error)
    found = re.search(r"\bGLOBAL ([\w.]+)", told)
    if found is None and "TorchScript" not in told:
        first = told.splitlines()[0] if told else type(error).__name__
        return f"{path} is damaged or not a checkpoint: {first.partition(' In PyTorch 2.6')[0]}"
    return (
        f"{path} is damaged or not a weights-only checkpoint: it holds more than weights "
        f"({found[1] if found else 'a program'}), and only weights are ever loaded. In the environment that it comes from, "
        "where its model can be built, save the weights: torch.save(model.state_dict(), 'weights.pt')"
    )


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of a process that was killed while writing."""
    for path in folder.glob("*.tmp"):
        path.unlink()


def _flush_folder(folder: Path) -> None:
    # The new name is on disk only after its folder is flushed.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
