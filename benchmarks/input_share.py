"""The cost of reading and augmenting a batch relative to a training step on it, for data in memory.

    python -m benchmarks.input_share    a table of the recipes: images per second, share of a resnet8x4 step

A batch is 128 images of CIFAR's size, from a split of 10,000, on one CPU thread. The random numbers of a view are drawn once
per epoch; each batch includes its share of that cost.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Spread, interleaved, ratios, spread
from training.data import Augmenting, Batch, Mixing, View
from training.data.augmentations import ShiftAndFlip
from training.data.loader import Loader, epoch_order
from training.data.mixing import Mixer, with_partners
from training.data.recipes import of_images
from training.data.splits import Normalization, TensorSplit
from training.models import make_model

SAMPLES, CLASSES, BATCH = 10_000, 100, 128
SECONDS = 40.0
"""Time for all repetitions."""

RECIPES = {
    "cifar": (Augmenting("cifar"), Mixing()),
    "imagenet": (Augmenting("imagenet"), Mixing()),
    "cifar, erasing": (Augmenting("cifar", None, 0.25), Mixing()),
    "cifar, mixup and cutmix": (Augmenting("cifar"), Mixing(0.2, 1.0)),
    "cifar, trivialaugment": (Augmenting("cifar", "trivialaugment"), Mixing()),
    "cifar, randaugment": (Augmenting("cifar", "randaugment"), Mixing()),
}
"""Augmentation and mixing by recipe name."""


class Share(NamedTuple):
    """The cost of reading and augmenting a batch with one recipe."""

    recipe: str
    seconds: Spread
    of_step: Spread
    """Ratio to a training step, over the repetitions."""

    @property
    def images_per_second(self) -> float:
        return BATCH / self.seconds.median


def measure(recipes: list[str], seconds: float = SECONDS) -> list[Share]:
    """The cost of each recipe relative to a training step; all runs are interleaved."""
    reading = {name: _reading(*RECIPES[name]) for name in recipes}
    times = interleaved({**reading, "step": _training_step()}, seconds=seconds)
    return [Share(name, spread(times[name]), spread(ratios(times[name], times["step"]))) for name in recipes]


def _reading(augmenting: Augmenting, mixing: Mixing) -> Callable[[], object]:
    """Reads the next batch of an endless sequence of epochs."""
    images = torch.randint(256, (SAMPLES, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = TensorSplit(
        images, torch.arange(SAMPLES) % CLASSES, Normalization((0.5,) * 3, (0.25,) * 3), ShiftAndFlip(4, flip=True)
    )
    split.augmentation = of_images(augmenting, split)
    loader = Loader(split, workers=0, mixer=Mixer(mixing, SAMPLES, CLASSES) if mixing else None)

    def batches() -> Iterator[Batch]:
        epoch = 0
        while True:
            order = epoch_order(SAMPLES, 0, epoch)
            parts = (with_partners(order) if mixing else order).split(BATCH, dim=-1)
            yield from loader.batches(parts, View(0, epoch))
            epoch += 1

    endless = batches()
    return lambda: next(endless)


def _training_step() -> Callable[[], object]:
    model = make_model("resnet8x4", 3, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % CLASSES

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def table(shares: list[Share]) -> Table:
    """One row per recipe, with medians."""
    lines = Table(
        "recipe", "ms/batch", "images/s", "share of a step", title=f"batches of {BATCH} images (3 x 32 x 32), one thread"
    )
    for share in shares:
        lines.add_row(
            share.recipe, f"{1000 * share.seconds.median:.2f}", f"{share.images_per_second:,.0f}",
            f"{100 * share.of_step.median:.2f} %",
        )  # fmt: skip
    return lines


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    Console().print(table(measure(list(RECIPES))))


if __name__ == "__main__":
    main()
