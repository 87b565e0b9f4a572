"""Data in memory: moved to the device of the training once, and taken and augmented there without waiting for it.

The device ``meta`` stands in for a GPU: it has shapes but no values, so that whatever asks it for a value raises.
"""

import time
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training.data.augmentations import ShiftAndFlip
from training.data.loader import Loader
from training.data.pairs import Disturbance
from training.data.splits import Augmentation, Normalization, TensorSplit, View
from training.models import make_model

META = torch.device("meta")
AUGMENTATIONS: list[Augmentation | None] = [
    None,
    ShiftAndFlip(4, flip=True),
    Disturbance(32, 32, shift=2, patch=4, noise=0.1),
]


class Copies(TorchDispatchMode):
    """Notes the bytes of every copy from the CPU to another device, and refuses one that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None) -> Any:
        options = options or {}
        if function is torch.ops.aten._to_copy.default and options.get("device", torch.device("cpu")) == META:
            assert arguments[0].device.type == "cpu"
            assert options["non_blocking"]
            self.bytes.append(arguments[0].nbytes)
        return function(*arguments, **options)


def make_split(augmentation: Augmentation | None, count: int = 300, channels: int = 3) -> TensorSplit:
    images = torch.randint(256, (count, channels, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return TensorSplit(images, torch.arange(count) % 10, Normalization((0.4,) * channels, (0.3,) * channels), augmentation)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
def test_a_batch_is_made_on_the_device_and_nothing_waits_for_it(augmentation: Augmentation | None) -> None:
    split = make_split(augmentation, channels=1)
    with Loader(split, workers=2, device=META) as loader:
        assert split.images.device == META
        next(loader.batches([torch.arange(4)], View(0, 0)))
        with Copies() as copies:
            for batch in loader.batches(torch.arange(256).split(64), View(0, 0)):
                assert (batch.images.device, batch.labels.device, batch.index.device.type) == (META, META, "cpu")
                assert batch.images.shape == (64, 1, 32, 32)
    # The random numbers and the positions alone: for noise a number each pixel, and never the images.
    assert max(copies.bytes) <= 64 * 32 * 32 * 4
    assert (sum(copies.bytes) < 4 * 64 * 100) == (not isinstance(augmentation, Disturbance))


def test_labels_that_heads_are_made_by_stay_on_the_cpu() -> None:
    split = make_split(None)
    split.move(META)
    assert split.labels.tolist() == [index % 10 for index in range(300)]


def test_reading_and_augmenting_a_batch_costs_at_most_a_twentieth_of_a_training_step() -> None:
    split, model = make_split(ShiftAndFlip(4, flip=True), count=1000), make_model("resnet8x4", 3, 100)
    with Loader(split, workers=0) as loader:
        reading, step = [], []
        for index in torch.randperm(1000, generator=torch.Generator().manual_seed(0)).split(128)[:3]:
            start = time.perf_counter()
            batch = next(loader.batches([index], View(0, 0)))
            middle = time.perf_counter()
            torch.nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
            reading.append(middle - start)
            step.append(time.perf_counter() - middle)
    assert min(reading) <= 0.05 * min(step)
