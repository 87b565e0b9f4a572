"""A teacher's logits on disk, by view and sample.

A folder holds description.json, and two files for each view: ``view-0.logits`` with N x C float32, and ``view-0.checksums``
with N uint64, which are 0 for missing logits and otherwise 1 + the CRC-32 of the sample's logits. A row whose checksum does
not match counts as missing, so neither a killed run nor processes that write at the same time can leave wrong logits.
"""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.storage import files


class LogitCache:
    """The logits of one teacher for some augmentations of one training split.

    Args:
        folder: created if it does not exist.
        description: everything that the logits depend on, plain values by name.
        views: number of augmentations.
        samples: N of the training split.
        classes: C.

    Raises:
        ValueError: the folder holds logits of another teacher, data set or augmentation, or its description is damaged.
        OSError: a file in it is a symbolic link.
    """

    def __init__(self, folder: Path, description: dict[str, Any], *, views: int, samples: int, classes: int) -> None:
        description = {**description, "views": views, "samples": samples, "classes": classes}
        self._check(folder, description)
        self.folder, self.samples, self.classes = folder, samples, classes
        self.logits = [self._map(f"view-{view}.logits", np.float32, (samples, classes)) for view in range(views)]
        self.checksums = [self._map(f"view-{view}.checksums", np.uint64, (samples,)) for view in range(views)]

    def get(self, view: int, index: Tensor) -> Tensor | None:
        """Logits ``(B, C)`` of the samples ``index`` ``(B,)``, or None if any of them is missing."""
        rows = index.numpy()
        logits = self.logits[view][rows]
        if not np.array_equal(self.checksums[view][rows], _checksums(logits)):
            return None
        return torch.from_numpy(logits)

    def put(self, view: int, index: Tensor, logits: Tensor) -> None:
        """Stores logits ``(B, C)`` float32 of the samples ``index`` ``(B,)``."""
        rows, values = index.numpy(), logits.numpy()
        self.logits[view][rows] = values
        self.checksums[view][rows] = _checksums(values)

    def _map(self, name: str, dtype: type, shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
        path = self.folder / name
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        # Append mode creates the file without emptying one that another process just created; unwritten values are 0.
        with files.append(path) as file:
            if file.tell() != size:
                file.truncate(size)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)

    @staticmethod
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


def fingerprint(model: nn.Module) -> str:
    """A hash of the names, shapes and values of a model's weights and statistics."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _checksums(logits: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return np.array([1 + zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in logits], dtype=np.uint64)
