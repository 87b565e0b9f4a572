"""``fashion100``: the ordered pairs of Fashion-MNIST's 10 classes, two articles side by side.

The pairs are made by pairs.py. The canvas of 32 x 60, two images of 28 x 28 and a margin of 2, is averaged over squares of
2 x 2 and kept as uint8: at 16 x 30, comparisons are feasible on a CPU. Test pairs come from the test file only, validation
pairs from a random tenth of the training file, which no training pair comes from.
"""

from pathlib import Path

import torch

from training.data.held_out import check_held_out, hold_out
from training.data.pairs import Members, Originals, Recipe, make_splits
from training.data.splits import Normalization, Splits
from training.data.torchvision_sets import FASHION_CLASSES, read_fashion_mnist

SEED = 20260202
"""Seed of the split and the pairs: the data set is the same in every run."""

PAIRS = {"train": 10000, "validation": 2000, "test": 5000}
HELD_OUT = 0.1
DOWNSAMPLING = 2

RECIPE = Recipe(
    margin=2, downsampling=DOWNSAMPLING, shift=2, patch=8 // DOWNSAMPLING, noise=0.15,
    normalization=Normalization((0.25,), (0.35,)),
)  # fmt: skip


def load_fashion100(folder: Path, *, held_out: float | None = None) -> Splits:
    """Images ``(N, 1, 16, 30)`` from the files of ``fashion_mnist``.

    Args:
        held_out: share of the training file's images whose pairs are for validation.

    Raises:
        FileNotFoundError: the folder lacks the files; the message says which go where.
        ValueError: held_out is not in [0, 1), a file is damaged or holds more than tensors, or images and labels do not
            match.
    """
    check_held_out(held_out)
    train, test = read_fashion_mnist(folder)
    images, labels = torch.cat([train.images, test.images])[:, 0], torch.cat([train.labels, test.labels])
    originals = Originals(images, labels, FASHION_CLASSES)
    kept, held = hold_out(len(train.labels), HELD_OUT if held_out is None else held_out, SEED)
    members = Members(kept, held, torch.arange(len(train.labels), len(originals.labels)))
    return make_splits(originals, members, PAIRS, RECIPE, SEED)
