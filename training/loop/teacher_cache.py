"""A teacher's output on disk, by view and sample: its logits, and its pooled features for methods that need them.

A folder holds description.json, and two files for each view and kind of output: ``view-0.logits`` with N x C float32 and
``view-0.logits.checksums`` with N uint64, which are 0 for missing rows and otherwise 1 + the CRC-32 of the row. A row whose
checksum does not match counts as missing, so neither a killed run nor processes that write at the same time can leave wrong
values.
"""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.models import Output
from training.storage import files


class TeacherCache:
    """The output of one teacher for some augmentations of one training split.

    Args:
        folder: created if it does not exist.
        description: everything that the output depends on, plain values by name.
        views: number of augmentations.
        samples: N of the training split.
        classes: C.
        features: width D of the pooled features; None keeps logits alone. Caches of one folder share the logits.

    Raises:
        ValueError: the folder holds the output of another teacher, data set or augmentation, or its description is damaged.
        OSError: a file in it is a symbolic link.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        *,
        views: int,
        samples: int,
        classes: int,
        features: int | None = None,
    ) -> None:
        _check(folder, {**description, "views": views, "samples": samples, "classes": classes})
        self.logits = [Rows(folder / f"view-{view}.logits", samples, classes) for view in range(views)]
        self.features = None
        if features is not None:
            self.features = [Rows(folder / f"view-{view}.features", samples, features) for view in range(views)]

    def get(self, view: int, index: Tensor) -> Output | None:
        """The output for the samples ``index`` ``(B,)``, or None if any part of it is missing."""
        logits = self.logits[view].get(index)
        if logits is None:
            return None
        if self.features is None:
            return Output(logits)
        features = self.features[view].get(index)
        return None if features is None else Output(logits, features)

    def put(self, view: int, index: Tensor, output: Output) -> None:
        """Stores the output for the samples ``index`` ``(B,)``: logits, and features if this cache keeps them, in float32 on
        the CPU."""
        self.logits[view].put(index, output.logits)
        if self.features is not None:
            assert output.features is not None
            self.features[view].put(index, output.features)


class Rows:
    """An N x D array of float32 in a file, with a checksum for each row in another."""

    def __init__(self, path: Path, samples: int, width: int) -> None:
        self.values = _map(path, np.float32, (samples, width))
        self.checksums = _map(path.with_name(path.name + ".checksums"), np.uint64, (samples,))

    def get(self, index: Tensor) -> Tensor | None:
        """Rows ``(B, D)`` at ``index`` ``(B,)``, or None if any of them is missing."""
        rows = index.numpy()
        values = self.values[rows]
        if not np.array_equal(self.checksums[rows], _checksums(values)):
            return None
        return torch.from_numpy(values)

    def put(self, index: Tensor, values: Tensor) -> None:
        """Stores rows ``(B, D)`` at ``index`` ``(B,)``."""
        rows, kept = index.numpy(), values.numpy()
        self.values[rows] = kept
        self.checksums[rows] = _checksums(kept)


def fingerprint(model: nn.Module) -> str:
    """A hash of the names, shapes and values of a model's weights and statistics."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _check(folder: Path, description: dict[str, Any]) -> None:
    path = folder / "description.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        files.write_text(path, json.dumps(description, indent=2) + "\n")
        return
    try:
        kept = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"teacher_cache {folder} is damaged or not a cache: {error}") from error
    other = [name for name in description if kept.get(name) != description[name]]
    if other:
        told = "; ".join(f"{name} {kept.get(name)!r} in the cache, {description[name]!r} now" for name in other)
        raise ValueError(f"teacher_cache {folder} was made with other settings: {told}; choose another folder")


def _map(path: Path, dtype: type, shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    # Append mode creates the file without emptying one that another process just created; unwritten values are 0.
    with files.append(path) as file:
        if file.tell() != size:
            file.truncate(size)
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)


def _checksums(rows: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return np.array([1 + zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in rows], dtype=np.uint64)
