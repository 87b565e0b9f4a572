"""Selects the training samples: holds some out for validation, and may limit the number of samples per class."""

import torch
from torch import Tensor


def check_held_out(held_out: float | None) -> None:
    """Refuses a share outside [0, 1).

    Raises:
        ValueError: names held_out.
    """
    if held_out is not None and not 0 <= held_out < 1:
        raise ValueError(f"held_out must be in [0, 1), got {held_out}")


def number_held_out(count: int, held_out: float) -> int:
    """How many of ``count`` samples are held out: at least 1 unless the share is 0, and never all of them."""
    return min(max(1, int(held_out * count)), count - 1) if held_out else 0


def hold_out(count: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of the samples to train on and of those held out, int64, in a random order that depends only on ``seed``."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = number_held_out(count, held_out)
    return order[held:], order[:held]


def balanced(labels: Tensor, count: int, classes: int) -> Tensor:
    """Positions, in ascending order, of the first ``count`` samples of every class in ``labels`` ``(N,)``.

    Raises:
        ValueError: names train_per_class; a class has fewer.
    """
    sizes = torch.bincount(labels, minlength=classes)
    fewest = int(sizes.argmin())
    if not 1 <= count <= sizes[fewest]:
        raise ValueError(
            f"train_per_class must be at least 1 and at most what every class has for training, "
            f"{int(sizes[fewest])} of class {fewest}, got {count}"
        )
    by_class = torch.argsort(labels, stable=True)
    place = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    return by_class[place < count].sort().values
