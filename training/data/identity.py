"""The identity of a data set, independent of its path: its classes and contents. Runs, teachers and caches compare it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

NAMED = 5
"""Maximum number of classes that a message names."""


class Part(NamedTuple):
    """One part of a data set, such as its training images: the number of samples and a checksum of all of them."""

    samples: int
    contents: str


@dataclass(frozen=True)
class Identity:
    """Two data sets with equal identities are the same. Paths are not included: moved data is the same data.

    Attributes:
        class_names: in the order of the labels.
        parts: by name, such as train and test, as published: independent of which samples are held out.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, Part]

    def as_dict(self) -> dict[str, Any]:
        """Plain values that ``from_dict`` accepts."""
        return {"class_names": list(self.class_names), "parts": {name: list(part) for name, part in self.parts.items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Identity":
        """The identity that ``as_dict`` returned."""
        return cls(tuple(content["class_names"]), {name: Part(*part) for name, part in content["parts"].items()})

    def checksum(self) -> str:
        """One checksum of classes and contents."""
        parts = [f"{name} {part.samples} {part.contents}" for name, part in sorted(self.parts.items())]
        return checksum(*map(encode, [*self.class_names, *parts]))

    def differences(self, now: "Identity") -> list[str]:
        """The differences to ``now``, in words; empty for the same data set."""
        found = class_differences(self.class_names, now.class_names)
        for name in sorted({*self.parts, *now.parts}):
            then, here = self.parts.get(name), now.parts.get(name)
            if then != here:
                found.append(f"{name} {_told(then)} then and {_told(here)} now")
        return found


def class_differences(then: Sequence[str], now: Sequence[str]) -> list[str]:
    """How the classes ``now`` differ from those ``then``, in words; empty for the same classes in the same order."""
    if tuple(then) == tuple(now):
        return []
    gone, new = (sorted(set(one) - set(other)) for one, other in ((then, now), (now, then)))
    if not gone and not new and len(then) == len(now):
        place = next(place for place, (one, other) in enumerate(zip(then, now, strict=True)) if one != other)
        return [f"classes in another order: class {place} was {then[place]!r} and is {now[place]!r}"]
    listed = [f"{word} {some(names)}" for word, names in (("without", gone), ("with", new)) if names]
    return [f"{len(now)} classes instead of {len(then)}, {' and '.join(listed) or 'some of the same name'}"]


def some(names: Sequence[str]) -> str:
    """The names, or if there are more than ``NAMED``, the first of them and their number."""
    return ", ".join(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])}, ... ({len(names)})"


def part_of_tensors(images: Tensor, labels: Tensor) -> Part:
    """The part of images ``(N, ...)`` and labels ``(N,)`` in memory, from all their values."""
    stored = f"{tuple(images.shape)} {images.dtype}".encode()
    return Part(len(labels), checksum(stored, *(tensor.contiguous().numpy().tobytes() for tensor in (images, labels))))


def part_of_files(files: Iterable[tuple[bytes, int]]) -> Part:
    """The part made of files, each a name relative to the part's folder and a size in bytes.

    File contents are not read, because that would take hours for millions of files: a replacement of the same size goes
    unnoticed.
    """
    named = sorted(files)
    return Part(len(named), checksum(*(b"%d %s" % (size, name) for name, size in named)))


def checksum(*parts: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of ``parts``."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]


def encode(text: str) -> bytes:
    """Encodes text, including file names in unknown encodings."""
    return text.encode(errors="surrogatepass")


def _told(part: Part | None) -> str:
    return "absent" if part is None else f"{part.samples} samples sha256:{part.contents}"
