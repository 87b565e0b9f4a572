"""The digits100 data set: pairs of real digits that never cross a split."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from training.data import digits100
from training.data.splits import Split, shift_each


def test_every_original_belongs_to_exactly_one_split() -> None:
    originals = np.concatenate(list(digits100.split_originals().values()))
    assert sorted(originals) == list(range(len(load_digits().target)))


def test_every_split_has_every_digit() -> None:
    target = load_digits().target
    for originals in digits100.split_originals().values():
        assert set(target[originals]) == set(range(10))


def test_pairs_use_only_the_originals_they_are_drawn_from() -> None:
    allowed = np.array([3, 14, 159])
    pairs, _ = digits100.draw_pairs(allowed, 200, torch.Generator().manual_seed(0))
    assert set(pairs.flatten().tolist()) == set(allowed.tolist())


def test_the_label_is_the_number_that_the_two_digits_make() -> None:
    target = load_digits().target
    pairs, labels = digits100.draw_pairs(np.arange(500), 100, torch.Generator().manual_seed(1))
    for (left, right), label in zip(pairs.tolist(), labels.tolist(), strict=True):
        assert f"{label:02d}" == f"{target[left]}{target[right]}"


def test_a_canvas_holds_the_pixels_of_both_originals_side_by_side() -> None:
    images = load_digits().images
    canvas = digits100.compose(torch.tensor([[5, 9]]))[0, 0].numpy()
    np.testing.assert_allclose(canvas[2:10, 2:10] * 16, images[5], rtol=1e-6)
    np.testing.assert_allclose(canvas[2:10, 10:18] * 16, images[9], rtol=1e-6)
    assert np.isclose(canvas.sum() * 16, images[5].sum() + images[9].sum())


def test_no_original_is_seen_in_two_of_the_loaded_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits100, "disturb", lambda images, generator: images)
    splits = digits100.load_digits100(Path())
    seen = []
    for split in splits[:3]:
        halves = torch.cat([split.images[:, 0, 2:10, 2:10], split.images[:, 0, 2:10, 10:18]])
        seen.append({half.tobytes() for half in halves.numpy()})
    assert all(len(originals) > 100 for originals in seen)
    assert len(set.union(*seen)) == sum(len(originals) for originals in seen)


def test_the_test_and_validation_images_are_disturbed_and_the_training_images_wait_for_augmentation() -> None:
    splits = digits100.load_digits100(Path())
    assert splits.train.images.min() == 0
    assert splits.train.images.max() == 1
    for split in (splits.validation, splits.test):
        # Noise leaves hardly two of the 240 pixels of a canvas alike; a clean one has 17 grey levels.
        assert split.images[0].unique().numel() > 200


def test_a_disturbed_canvas_is_shifted_loses_one_patch_and_gets_noise_of_the_stated_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = digits100.disturb(torch.zeros(500, 1, 12, 20), generator) * digits100.DEVIATION + digits100.MEAN
    assert abs(noise.std().item() - digits100.NOISE) < 0.005
    assert abs(noise.mean().item()) < 0.005

    monkeypatch.setattr(digits100, "NOISE", 0.0)
    dot = torch.zeros(500, 1, 12, 20)
    dot[:, 0, 6, 10] = 1
    positions = (digits100.disturb(dot, generator) > 0).nonzero()
    # 25 shifts of a dot; a patch of 16 of the 240 pixels hides some of the dots.
    assert len({tuple(position) for position in positions[:, 2:].tolist()}) == 25
    assert 0 < 500 - len(positions) < 250


def test_two_loads_give_the_same_data_and_all_100_classes() -> None:
    first, second = (digits100.load_digits100(Path()) for _ in range(2))
    for name in ("train", "validation", "test"):
        one, other = getattr(first, name), getattr(second, name)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.labels.unique().numel() == 100


def test_augmentation_depends_on_its_generator_and_leaves_the_canvas_alone() -> None:
    canvas = digits100.compose(torch.tensor([[0, 1], [2, 3]]))
    before = canvas.clone()
    first, again = (digits100.disturb(canvas, torch.Generator().manual_seed(7)) for _ in range(2))
    other = digits100.disturb(canvas, torch.Generator().manual_seed(8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(canvas, before)


def test_a_shift_moves_the_image_and_brings_in_zeros() -> None:
    images = torch.zeros(64, 1, 5, 5)
    images[:, 0, 2, 2] = 1
    shifted = shift_each(images, 2, torch.Generator().manual_seed(0))
    assert torch.equal(shifted.sum((1, 2, 3)), torch.ones(64))
    assert len({tuple(position) for position in shifted.nonzero()[:, 2:].tolist()}) > 10


def test_random_batches_cover_the_split_once_without_the_remainder() -> None:
    split = Split(torch.arange(10.0)[:, None], torch.arange(10))
    batches = list(split.batches(4, torch.Generator().manual_seed(0)))
    seen = torch.cat([batch.labels for batch in batches])
    assert [len(batch.labels) for batch in batches] == [4, 4]
    assert seen.unique().numel() == 8
    assert torch.equal(torch.cat([batch.images for batch in batches])[:, 0].long(), seen)


def test_batches_in_order_include_the_remainder() -> None:
    split = Split(torch.arange(10.0)[:, None], torch.arange(10))
    assert torch.equal(torch.cat([batch.labels for batch in split.batches(4)]), split.labels)
