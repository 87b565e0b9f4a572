"""Small files in the format that Fashion-MNIST is published in."""

import struct
from pathlib import Path

import numpy as np

SHORT = {"train": "train", "test": "t10k"}


def write_idx(path: Path, values: np.ndarray) -> None:
    """Writes ``values`` as an IDX file of bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_fashion_mnist(folder: Path, images: dict[str, np.ndarray]) -> None:
    """Writes ``train`` and ``test`` images ``(N, 28, 28)`` with the labels 0 to 9 in turn."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, pixels in images.items():
        write_idx(raw / f"{SHORT[part]}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{SHORT[part]}-labels-idx1-ubyte", np.arange(len(pixels)) % 10)
