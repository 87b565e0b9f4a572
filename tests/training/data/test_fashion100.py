"""The fashion100 data set: pairs of articles that never cross a split, at half their size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_fashion_mnist

from training.data import fashion100
from training.data.pairs import Disturbance, downsample
from training.data.splits import Splits, View


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion100, "PAIRS", {"train": 300, "validation": 80, "test": 90})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of one grey each: 1 to 60 for training, 101 to 120 for testing."""
    greys = {"train": np.arange(1, 61), "test": np.arange(101, 121)}
    write_fashion_mnist(tmp_path, {part: np.repeat(values, 784).reshape(-1, 28, 28) for part, values in greys.items()})
    return tmp_path


def originals(images: torch.Tensor) -> torch.Tensor:
    """The greys ``(N, 2)`` of the two halves of canvases in [0, 255]."""
    return torch.stack([images[:, 0, 8, 7], images[:, 0, 8, 22]], dim=1).round().long()


@pytest.fixture
def undisturbed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Splits:
    monkeypatch.setattr(Disturbance, "apply", lambda self, images, draws: images)
    return fashion100.load_fashion100(folder)


def test_every_split_has_its_own_originals(undisturbed: Splits) -> None:
    train, validation, test = undisturbed[:3]
    seen = [
        set(originals(images).flatten().tolist()) for images in (train.images, validation.images * 255, test.images * 255)
    ]
    assert seen[2] <= set(range(101, 121))
    assert seen[0] | seen[1] == set(range(1, 61))
    assert not seen[0] & seen[1]
    assert len(seen[1]) == 6


def test_the_label_combines_the_classes_of_both_halves(undisturbed: Splits) -> None:
    for split, scale, first in ((undisturbed.train, 1, 1), (undisturbed.test, 255, 101)):
        classes = (originals(split.images * scale) - first) % 10
        assert torch.equal(split.labels, 10 * classes[:, 0] + classes[:, 1])


def test_training_images_are_stored_as_bytes_at_half_size_with_a_margin(undisturbed: Splits) -> None:
    images = undisturbed.train.images
    assert images.dtype == torch.uint8
    assert images.shape == (300, 1, 16, 30)
    outside = torch.ones(16, 30, dtype=torch.bool)
    outside[1:15, 1:29] = False
    assert images[:, 0, outside].count_nonzero() == 0
    assert torch.equal(images[:, 0, 1:15, 1:15], images[:, 0, 8:9, 7:8].expand(-1, 14, 14))
    assert torch.equal(images[:, 0, 1:15, 15:29], images[:, 0, 8:9, 22:23].expand(-1, 14, 14))


def test_downsampling_averages_squares_and_rounds_bytes() -> None:
    canvas = torch.tensor([[0, 1, 9, 9], [2, 0, 9, 9]], dtype=torch.uint8)[None, None]
    assert downsample(canvas, 2).tolist() == [[[[1, 9]]]]
    assert downsample(canvas.float(), 2).tolist() == [[[[0.75, 9.0]]]]
    assert downsample(canvas, 2).dtype == torch.uint8


def test_views_are_disturbed_and_validation_and_test_are_disturbed_once(folder: Path) -> None:
    first, again = (fashion100.load_fashion100(folder) for _ in range(2))
    for name, view in (("train", View(0, 0)), ("validation", None), ("test", None)):
        index = torch.arange(50)
        images = getattr(first, name).load(index, view).images
        assert images.shape == (50, 1, 16, 30)
        assert images.dtype == torch.float32
        assert images[0].unique().numel() > 400
        assert torch.equal(images, getattr(again, name).load(index, view).images)
    assert first.transform == again.transform
    assert (first.classes, first.channels) == (100, 1)


@pytest.mark.parametrize("held_out", [0.0, 0.5])
def test_the_test_images_do_not_depend_on_the_held_out_share(folder: Path, held_out: float) -> None:
    default, other = fashion100.load_fashion100(folder), fashion100.load_fashion100(folder, held_out=held_out)
    assert torch.equal(default.test.images, other.test.images)
    assert torch.equal(default.test.labels, other.test.labels)
    assert (other.validation is None) == (held_out == 0)
    assert other.transform != default.transform
