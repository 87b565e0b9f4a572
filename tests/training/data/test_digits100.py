"""The digits100 data set: pairs of real digits that never cross a split."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from training.data import digits100
from training.data.pairs import Disturbance, compose, draw_pairs, label_pairs
from training.data.splits import Splits, TensorSplit, View


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits100.load_digits100(Path())


def everything(split: TensorSplit, view: View | None = None) -> torch.Tensor:
    return split.load(torch.arange(len(split)), view).images


@pytest.mark.parametrize("held_out", [0.0, 0.05, 0.2, 0.7])
def test_every_original_belongs_to_exactly_one_split(held_out: float) -> None:
    members = digits100.split_originals(held_out)
    assert sorted(torch.cat(list(members)).tolist()) == list(range(len(load_digits().target)))
    assert len(members.validation) == int(held_out * (len(members.train) + len(members.validation)))


def test_every_split_has_equal_shares_of_every_digit() -> None:
    target = load_digits().target
    for originals in digits100.split_originals():
        share = np.bincount(target[originals]) / np.bincount(target)
        np.testing.assert_allclose(share, len(originals) / len(target), atol=0.01)


def test_pairs_use_only_the_originals_they_are_drawn_from() -> None:
    allowed = torch.tensor([3, 14, 159])
    pairs = draw_pairs(allowed, 200, torch.Generator().manual_seed(0))
    assert set(pairs.flatten().tolist()) == set(allowed.tolist())


def test_the_label_is_the_number_that_the_two_digits_make() -> None:
    target = load_digits().target
    pairs = draw_pairs(torch.arange(500), 100, torch.Generator().manual_seed(1))
    labels = label_pairs(pairs, torch.from_numpy(target))
    for (left, right), label in zip(pairs.tolist(), labels.tolist(), strict=True):
        assert f"{label:02d}" == f"{target[left]}{target[right]}"


def test_a_canvas_holds_the_pixels_of_both_originals_side_by_side() -> None:
    images = load_digits().images
    canvas = compose(torch.from_numpy(images), torch.tensor([[5, 9]]), margin=2)[0, 0].numpy()
    assert canvas.shape == (12, 20)
    np.testing.assert_array_equal(canvas[2:10, 2:10], images[5])
    np.testing.assert_array_equal(canvas[2:10, 10:18], images[9])
    assert canvas.sum() == images[5].sum() + images[9].sum()


def test_no_original_appears_in_two_of_the_loaded_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disturbance, "apply", lambda self, images, draws: images)
    target, images = load_digits().target, load_digits().images.astype(np.float32) / 16
    digit_of = {image.tobytes(): digit for image, digit in zip(images, target, strict=True)}
    seen = []
    for split in digits100.load_digits100(Path())[:3]:
        left, right = (split.images[:, 0, 2:10, start : start + 8].numpy() for start in (2, 10))
        numbers = [10 * digit_of[a.tobytes()] + digit_of[b.tobytes()] for a, b in zip(left, right, strict=True)]
        assert split.labels.tolist() == numbers
        seen.append({half.tobytes() for half in (*left, *right)})
    assert all(len(originals) > 100 for originals in seen)
    assert len(set.union(*seen)) == sum(len(originals) for originals in seen)


def test_validation_and_test_images_are_disturbed_and_training_images_only_in_a_view(splits: Splits) -> None:
    assert splits.train.images.min() == 0
    assert splits.train.images.max() == 1
    # Noise leaves hardly two of the 240 pixels of a canvas alike; a clean one has 17 grey levels.
    for split in (splits.validation, splits.test):
        assert everything(split)[0].unique().numel() > 200
        assert torch.equal(everything(split, View(0, 0)), everything(split, View(0, 1)))
    assert everything(splits.train)[0].unique().numel() <= 17
    assert everything(splits.train, View(0, 0))[0].unique().numel() > 200


def test_a_view_adds_noise_of_the_stated_size_before_it_is_normalized(splits: Splits) -> None:
    blank = TensorSplit(torch.zeros(500, 1, 12, 20), torch.zeros(500), splits.train.normalization, splits.train.augmentation)
    noise = everything(blank, View(0, 0)) * 0.4 + 0.2
    assert abs(noise.std().item() - 0.2) < 0.005
    assert abs(noise.mean().item()) < 0.005


def test_a_disturbed_canvas_is_shifted_and_loses_one_patch() -> None:
    disturbance = Disturbance(12, 20, shift=2, patch=4, noise=0.0)
    draws = disturbance.draw(500, torch.Generator().manual_seed(0))
    lost = disturbance.apply(torch.ones(500, 1, 12, 20), draws)[:, 0, 2:10, 2:18] == 0
    # Where no shift brings in zeros, the lost pixels form one rectangle of at most 4 x 4.
    assert lost.any(2).sum(1).max() == lost.any(1).sum(1).max() == 4
    assert torch.equal(lost.any(2)[:, :, None] & lost.any(1)[:, None, :], lost)
    dot = torch.zeros(500, 1, 12, 20)
    dot[:, 0, 6, 10] = 1
    places = disturbance.apply(dot, draws).nonzero()[:, 2:]
    assert {tuple(place) for place in places.tolist()} == {(row, column) for row in range(4, 9) for column in range(8, 13)}
    assert 0 < 500 - len(places) < 250


def test_two_loads_give_the_same_data_and_all_100_classes(splits: Splits) -> None:
    again = digits100.load_digits100(Path())
    for name, view in (("train", View(4, 2)), ("validation", None), ("test", None)):
        one, other = getattr(splits, name), getattr(again, name)
        assert torch.equal(everything(one, view), everything(other, view))
        assert torch.equal(one.labels, other.labels)
        assert one.labels.dtype == torch.int64
        assert one.labels.unique().numel() == 100
    assert again.transform == splits.transform


@pytest.mark.parametrize("held_out", [0.0, 0.5])
def test_the_test_images_do_not_depend_on_the_held_out_share(held_out: float, splits: Splits) -> None:
    other = digits100.load_digits100(Path(), held_out=held_out)
    assert torch.equal(everything(other.test), everything(splits.test))
    assert torch.equal(other.test.labels, splits.test.labels)
    assert (other.validation is None) == (held_out == 0)
    assert other.transform != splits.transform
