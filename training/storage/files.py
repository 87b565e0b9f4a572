"""Files that are written whole or not at all, and read without executing anything.

What a user names, such as the folder of a run, may be a symbolic link or lie behind one. Below it nothing is written through
a link: someone else may have put it there.
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
    """Writes a file atomically: a temporary file that ``fill`` writes, flushed to the disk, then renamed over ``path``.

    A symbolic link at ``path`` is replaced, what it points to is left alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened by name, because a file of tempfile's is readable by its owner alone, and this one would be too.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    # Outside of the clean-up: what is there already is not this function's to remove.
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
    """``write`` of text in UTF-8."""
    write(path, lambda file: file.write(text.encode()))


def save(path: Path, content: Mapping[str, Any]) -> None:
    """``write`` of tensors and plain values, as ``read`` takes them."""
    write(path, lambda file: torch.save(content, file))


def append(path: Path) -> BinaryIO:
    """``path`` opened to read it and to append to it, made if it is not there.

    Raises:
        OSError: it is a symbolic link.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "a+b")


def make_folder(folder: Path) -> None:
    """Makes ``folder``, if it is not there, in a folder that the user named.

    Raises:
        ValueError: it is a symbolic link.
    """
    if not folder.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
    # Asked after it was made: until then anything could have been put there.
    if folder.is_symlink():
        raise ValueError(f"{folder} must be a folder, got a symbolic link")


def read(path: Path) -> Any:
    """What ``save`` wrote, on the CPU.

    Raises:
        ValueError: the file is truncated, has a changed byte, or holds more than tensors and plain values.
    """
    try:
        # torch.load does not compare the checksums that the archive has.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"checksum of {broken} does not match")
        return torch.load(path, map_location="cpu", weights_only=True)
    # What is no pickle fails with whatever its bytes happen to ask for.
    except Exception as error:
        raise ValueError(refusal(path, error)) from error


def refusal(path: Path, error: Exception) -> str:
    """What to tell of a file that ``torch.load`` refused, without its advice to switch its safety off."""
    told = str(error)
    found = re.search(r"\bGLOBAL ([\w.]+)", told)
    if found is None and "TorchScript" not in told:
        first = told.splitlines()[0] if told else type(error).__name__
        return f"{path} is damaged or no checkpoint: {first.partition(' In PyTorch 2.6')[0]}"
    return (
        f"{path} is damaged or no checkpoint of weights alone: it holds more than weights "
        f"({found[1] if found else 'a program'}), and nothing else is ever loaded. In the environment that it comes from, "
        "where its model can be built, save the weights: torch.save(model.state_dict(), 'weights.pt')"
    )


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of a process that was killed while it wrote."""
    for path in folder.glob("*.tmp"):
        path.unlink()


def _flush_folder(folder: Path) -> None:
    # The new name is on the disk only when its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
