"""The data sets, by name."""

from collections.abc import Callable
from pathlib import Path

from training.data.digits100 import load_digits100
from training.data.splits import Split, Splits
from training.data.torchvision_sets import load_cifar100, load_fashion_mnist

DATASETS: dict[str, Callable[[Path], Splits]] = {
    "digits100": load_digits100,
    "fashion_mnist": load_fashion_mnist,
    "cifar100": load_cifar100,
}
"""Each takes the data folder and returns the three splits."""

__all__ = ["DATASETS", "Split", "Splits"]
