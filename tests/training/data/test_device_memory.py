"""Data in memory moves to the training device once; batches are made and augmented there without synchronization.

The device ``meta`` stands in for a GPU: its tensors have shapes but no values, so that reading a value raises.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training.config import Config
from training.data.augmentations import ShiftAndFlip
from training.data.identity import Identity
from training.data.loader import Loader
from training.data.pairs import Disturbance
from training.data.recipes import Augmenting, of_images
from training.data.splits import Augmentation, Normalization, Splits, TensorSplit, View
from training.loop.distributed import Processes
from training.loop.engine import Trainer
from training.loop.interruption import Interruption
from training.loop.teacher import Teacher
from training.methods import make_method
from training.models import Network, make_model
from training.observer import Observer

META = torch.device("meta")
AUGMENTATIONS: list[Augmentation | None] = [
    None,
    ShiftAndFlip(4, flip=True),
    Disturbance(32, 32, shift=2, patch=4, noise=0.1),
]


class Copies(TorchDispatchMode):
    """Records the bytes of every copy from the CPU to the device, and refuses a blocking one."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Any = None) -> Any:
        options = options or {}
        if function is torch.ops.aten._to_copy.default and options.get("device", torch.device("cpu")) == META:
            assert arguments[0].device.type == "cpu"
            assert options.get("non_blocking")
            self.bytes.append(arguments[0].nbytes)
        return function(*arguments, **options)


def make_split(augmentation: Augmentation | None, count: int = 300, channels: int = 3) -> TensorSplit:
    images = torch.randint(256, (count, channels, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return TensorSplit(images, torch.arange(count) % 10, Normalization((0.4,) * channels, (0.3,) * channels), augmentation)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
def test_a_batch_is_made_on_the_device_without_synchronization(augmentation: Augmentation | None) -> None:
    split = make_split(augmentation, channels=1)
    with Loader(split, workers=2, device=META) as loader:
        assert split.images.device == META
        next(loader.batches([torch.arange(4)], View(0, 0)))
        with Copies() as copies:
            for batch in loader.batches(torch.arange(256).split(64), View(0, 0)):
                assert (batch.images.device, batch.labels.device, batch.index.device.type) == (META, META, "cpu")
                assert batch.images.shape == (64, 1, 32, 32)
    # Only random numbers and positions are copied, never the images; noise needs a number for each pixel.
    assert max(copies.bytes) <= 64 * 32 * 32 * 4
    assert (sum(copies.bytes) < 4 * 64 * 100) == (not isinstance(augmentation, Disturbance))


def test_the_labels_that_heads_are_built_from_stay_on_the_cpu() -> None:
    split = make_split(None)
    split.move(META)
    assert split.labels.tolist() == [index % 10 for index in range(300)]


@pytest.mark.parametrize("method", ["ce", "kd", "dist", "bickd"])
def test_a_training_step_neither_reads_from_the_device_nor_waits_for_a_copy(method: str) -> None:
    split = make_split(None)
    split.augmentation = of_images(Augmenting("cifar", "randaugment", 0.5), split)
    config = Config(
        method=method, teacher_checkpoint=None if method == "ce" else Path("teacher.pt"), batch_size=16, accumulate=2,
        mixup=0.2, cutmix=1.0, label_smoothing=0.1,
    )  # fmt: skip
    networks = [Network(make_model("resnet8", 3, 10), 10).to(META) for _ in range(2)]
    trainer = Trainer(
        config, Splits(split, None, split, 10, 3, "", Identity((), {})), networks[0],
        make_method(method, label_smoothing=0.1),
        None if method == "ce" else Teacher(networks[1], 0.0, "float32"), META, Processes(), Observer(),
        lambda state: None, Interruption(),
    )  # fmt: skip
    view = View(0, 0)
    batches = trainer.loader.batches(trainer._parts(), view)
    with Copies() as copies:
        for _ in range(3):
            trainer.train_step(batches, view)
            trainer.step += 1
    # Only positions and random numbers: for each of the 48 samples fewer bytes than its image.
    assert 0 < sum(copies.bytes) < 48 * split.images[0].nbytes
