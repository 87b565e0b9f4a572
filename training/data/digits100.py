"""``digits100``: the handwritten numbers 00 to 99, two of scikit-learn's bundled handwritten digits side by side.

The 1797 originals are split first, by digit; the pairs of a split are drawn from its own originals only, so that no
handwriting of the test split was ever trained on. Every pair is placed with random shifts on a 12 x 20 canvas, loses a
random patch, and gets noise, so that a small network has something to learn from a larger one.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from training.data.splits import Split, Splits, shift_each

SEED = 20260202
"""Of the split and the pairs: the data set is the same in every run."""

PAIRS = {"train": 8000, "validation": 2000, "test": 4000}
FRACTIONS = {"train": 0.6, "validation": 0.15, "test": 0.25}
HEIGHT, WIDTH = 12, 20
PATCH = 4
NOISE = 0.2
MEAN, DEVIATION = 0.2, 0.4


def split_originals() -> dict[str, np.ndarray]:
    """Indices of the originals of each split, in equal shares of every digit."""
    labels = load_digits().target
    everything = np.arange(len(labels))
    train, rest = train_test_split(everything, train_size=FRACTIONS["train"], stratify=labels, random_state=SEED)
    share = FRACTIONS["validation"] / (FRACTIONS["validation"] + FRACTIONS["test"])
    validation, test = train_test_split(rest, train_size=share, stratify=labels[rest], random_state=SEED)
    return {"train": train, "validation": validation, "test": test}


def draw_pairs(originals: np.ndarray, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices ``(count, 2)`` of left and right originals, and the numbers ``(count,)`` they make."""
    digits = torch.from_numpy(load_digits().target)
    chosen = torch.from_numpy(originals)[torch.randint(len(originals), (count, 2), generator=generator)]
    return chosen, 10 * digits[chosen[:, 0]] + digits[chosen[:, 1]]


def compose(pairs: Tensor) -> Tensor:
    """Clean canvases ``(N, 1, 12, 20)`` in [0, 1] of pairs ``(N, 2)`` of originals."""
    originals = torch.from_numpy(load_digits().images).float() / 16
    canvas = torch.zeros(len(pairs), 1, HEIGHT, WIDTH)
    for side, left in ((0, 2), (1, 10)):
        canvas[:, 0, 2:10, left : left + 8] = originals[pairs[:, side]]
    return canvas


def disturb(canvas: Tensor, generator: torch.Generator) -> Tensor:
    """Shift of each canvas by up to 2 pixels, one occluded patch, noise; then normalized. Same shape."""
    count = len(canvas)
    images = shift_each(canvas, 2, generator)
    row = torch.randint(HEIGHT - PATCH + 1, (count, 1, 1, 1), generator=generator)
    column = torch.randint(WIDTH - PATCH + 1, (count, 1, 1, 1), generator=generator)
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    hidden = (rows >= row) & (rows < row + PATCH) & (columns >= column) & (columns < column + PATCH)
    images = images.masked_fill(hidden, 0.0)
    images = images + NOISE * torch.randn(images.shape, generator=generator)
    return (images - MEAN) / DEVIATION


def load_digits100(folder: Path) -> Splits:
    """The three splits; nothing is read from ``folder``, as the originals come with scikit-learn."""
    generator = torch.Generator().manual_seed(SEED)
    splits = {}
    for name, originals in split_originals().items():
        pairs, labels = draw_pairs(originals, PAIRS[name], generator)
        images = compose(pairs)
        splits[name] = Split(images if name == "train" else disturb(images, generator), labels)
    return Splits(**splits, classes=100, augment=disturb)
