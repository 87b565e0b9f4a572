"""Lists the classes and images of a folder with one subfolder per class, and counts what is left out.

A class is a folder, or a link to one; its images are in it and in its subfolders. An image is a file whose extension, in
lower or upper case, Pillow reads. Names that begin with a dot, and folders that systems create, are ignored.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from training.data.identity import Part, part_of_files, some
from training.data.pixels import ENDINGS

SYSTEM_FOLDERS = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Created by archivers, storage servers and file systems; some hold copies of the neighbouring images."""

UNKNOWN = -1
"""The size of a file whose size cannot be read."""


class Listing(NamedTuple):
    """The contents of one part of a data set.

    Attributes:
        folder: the folder that the paths are relative to.
        classes: names, sorted.
        paths: image paths, sorted by class and then by name.
        sizes: sizes of the image files in bytes.
        labels: index of each image's class in ``classes``.
        left_out: counts of what was left out, by description.
    """

    folder: Path
    classes: tuple[str, ...]
    paths: list[str]
    sizes: list[int]
    labels: list[int]
    left_out: Counter[str]

    @property
    def part(self) -> Part:
        """The part of an ``Identity``."""
        return part_of_files(zip(map(os.fsencode, self.paths), self.sizes, strict=True))


def list_classes(folder: Path) -> Listing:
    """Lists the classes in ``folder`` and their images.

    Raises:
        OSError: a folder cannot be read.
        FileNotFoundError: there is no class, or one has no image.
    """
    left_out: Counter[str] = Counter()
    classes = sorted(entry.name for entry in _entries(folder, left_out) if _is_class(entry, left_out))
    if not classes:
        raise FileNotFoundError(f"{folder} has no folder that is a class{_told(left_out)}")
    listing = Listing(folder, tuple(classes), [], [], [], left_out)
    empty = []
    for label, name in enumerate(classes):
        before, found = len(listing.paths), Counter[str]()
        for path, size in _images(folder / name, name, (), found):
            listing.paths.append(path)
            listing.sizes.append(size)
            listing.labels.append(label)
        left_out.update(found)
        if len(listing.paths) == before:
            empty.append(f"{name}{_told(found)}")
    if empty:
        raise FileNotFoundError(f"no image that Pillow reads in {folder} for: {some(empty)}")
    return listing


def describe_left_out(left_out: Counter[str]) -> str:
    """What was left out and how often, such as ``12 .txt, 1 hidden (a dot in front)``."""
    return ", ".join(f"{count} {what}" for what, count in sorted(left_out.items(), key=lambda item: (-item[1], item[0])))


def _told(left_out: Counter[str]) -> str:
    return f" (left out: {describe_left_out(left_out)})" if left_out else ""


def _entries(folder: Path, left_out: Counter[str]) -> "list[os.DirEntry[str]]":
    """The entries of a folder, sorted by name, without hidden entries and system folders."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    kept = []
    for entry in entries:
        if entry.name.startswith("."):
            left_out["hidden (a dot in front)"] += 1
        elif entry.name in SYSTEM_FOLDERS:
            left_out[entry.name] += 1
        else:
            kept.append(entry)
    return kept


def _is_class(entry: "os.DirEntry[str]", left_out: Counter[str]) -> bool:
    if entry.is_dir():
        return True
    left_out["broken link" if _leads_nowhere(entry) else f"{_ending(entry.name)} outside the class folders"] += 1
    return False


def _images(
    folder: Path, relative: str, above: tuple[tuple[int, int], ...], left_out: Counter[str]
) -> Iterator[tuple[str, int]]:
    """The images in a folder and then in its subfolders, with their sizes; ``relative`` is the folder's own path, ``above``
    the device and inode of each parent folder."""
    status = folder.stat()
    own = status.st_dev, status.st_ino
    if own in above:
        left_out["link to a parent folder"] += 1
        return
    below = []
    for entry in _entries(folder, left_out):
        path = f"{relative}/{entry.name}"
        if entry.is_dir():
            below.append(path)
        elif _ending(entry.name) not in ENDINGS:
            left_out["broken link" if _leads_nowhere(entry) else _ending(entry.name)] += 1
        else:
            yield path, _size(entry)
    for path in below:
        yield from _images(folder / path.rpartition("/")[2], path, (*above, own), left_out)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without an extension"


def _leads_nowhere(entry: "os.DirEntry[str]") -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return UNKNOWN
