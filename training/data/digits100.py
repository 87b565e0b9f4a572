"""``digits100``: the handwritten numbers 00 to 99, two of scikit-learn's bundled handwritten digits side by side.

The 1797 originals are split by digit; the pairs are made by pairs.py on a 12 x 20 canvas.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from training.data.held_out import check_held_out, number_held_out
from training.data.pairs import Members, Originals, Recipe, make_splits
from training.data.splits import Normalization, Splits

SEED = 20260202
"""Seed of the split and the pairs: the data set is the same in every run."""

PAIRS = {"train": 8000, "validation": 2000, "test": 4000}
FRACTIONS = {"train": 0.6, "validation": 0.15, "test": 0.25}
HELD_OUT = 0.2
"""0.15 of 0.75."""

RECIPE = Recipe(margin=2, downsampling=1, shift=2, patch=4, noise=0.2, normalization=Normalization((0.2,), (0.4,)))


def split_originals(held_out: float = HELD_OUT) -> Members:
    """The originals of each split; the test split does not depend on ``held_out``.

    By default every split has equal shares of every digit. Another share moves random originals between training and
    validation.
    """
    labels = load_digits().target
    everything = np.arange(len(labels))
    train, rest = train_test_split(everything, train_size=FRACTIONS["train"], stratify=labels, random_state=SEED)
    share = FRACTIONS["validation"] / (FRACTIONS["validation"] + FRACTIONS["test"])
    validation, test = train_test_split(rest, train_size=share, stratify=labels[rest], random_state=SEED)
    usable = np.concatenate([train, validation])
    kept = len(usable) - number_held_out(len(usable), held_out)
    return Members(*(torch.from_numpy(part) for part in (usable[:kept], usable[kept:], test)))


def load_digits100(folder: Path, *, held_out: float | None = None) -> Splits:
    """Images ``(N, 1, 12, 20)``; nothing is read from ``folder``, as the originals come with scikit-learn.

    Args:
        held_out: share of the originals outside the test split whose pairs are for validation.

    Raises:
        ValueError: held_out is not in [0, 1).
    """
    check_held_out(held_out)
    digits = load_digits()
    names = tuple(map(str, digits.target_names))
    originals = Originals(torch.from_numpy(digits.images).float() / 16, torch.from_numpy(digits.target), names)
    return make_splits(originals, split_originals(HELD_OUT if held_out is None else held_out), PAIRS, RECIPE, SEED)
