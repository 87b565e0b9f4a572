"""Splits: images that depend on seed, view and sample alone, held-out samples, and data sets by name."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.data import DATASETS, check_name, load_splits
from training.data.augmentations import ShiftAndFlip, shift_each
from training.data.held_out import hold_out
from training.data.loader import Loader
from training.data.pairs import Disturbance
from training.data.splits import Augmentation, Draws, Normalization, TensorSplit, View, describe

PLAIN = Normalization((0.0,), (1.0,))


def make_split(augmentation: Augmentation | None = None, count: int = 40) -> TensorSplit:
    """Random uint8 images 12 x 10 of one channel."""
    images = torch.randint(256, (count, 1, 12, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return TensorSplit(images, torch.arange(count) % 7, Normalization((0.4,), (0.3,)), augmentation)


@pytest.fixture(params=[ShiftAndFlip(3, flip=True), Disturbance(12, 10, shift=2, patch=3, noise=0.2)], ids=repr)
def split(request: pytest.FixtureRequest) -> TensorSplit:
    return make_split(request.param)


def all_images(split: TensorSplit, view: View | None) -> Tensor:
    return split.load(torch.arange(len(split)), view).images


def test_an_image_is_the_same_in_every_batch_and_order(split: TensorSplit) -> None:
    view = View(3, 5)
    whole = all_images(split, view)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    for size in (1, 7, len(split)):
        for index in order.split(size):
            batch = split.load(index, view)
            assert torch.equal(batch.images, whole[index])
            assert torch.equal(batch.labels, index % 7)
            assert torch.equal(batch.index, index)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_is_the_same_from_every_worker(split: TensorSplit, workers: int) -> None:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    with Loader(split, workers=workers) as loader:
        for view in (View(0, 0), View(0, 1)):
            expected = all_images(make_split(split.augmentation), view)
            for batch in loader.batches(order.split(6), view):
                assert torch.equal(batch.images, expected[batch.index])


def test_another_view_or_seed_gives_another_image_of_nearly_every_sample(split: TensorSplit) -> None:
    first = all_images(split, View(0, 0))
    for other in (View(0, 1), View(1, 0), View(1, 1), View(0, -1)):
        differs = (all_images(split, other) != first).flatten(1).any(1)
        assert differs.double().mean() > 0.9


def test_alternating_views_give_the_same_images_as_each_view_alone(split: TensorSplit) -> None:
    index = torch.tensor([4, 11])
    alone = {view: all_images(make_split(split.augmentation), view)[index] for view in (View(0, 0), View(0, 1), View(7, 0))}
    for view in (View(0, 0), View(0, 1), View(0, 0), View(7, 0), View(0, 1), View(0, 0)):
        assert torch.equal(split.load(index, view).images, alone[view])


def test_without_a_view_images_are_the_stored_ones_scaled_and_normalized(split: TensorSplit) -> None:
    split.load(torch.tensor([0]), View(0, 0))
    expected = (split.images[[3, 1]].double() / 255 - 0.4) / 0.3
    torch.testing.assert_close(split.load(torch.tensor([3, 1])).images.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_view_of_a_split_without_augmentation_changes_nothing() -> None:
    split = make_split()
    assert torch.equal(all_images(split, View(0, 0)), all_images(split, None))


def test_float_images_are_not_scaled() -> None:
    images = torch.tensor([0.25, 3.0]).view(2, 1, 1, 1)
    split = TensorSplit(images, torch.arange(2), PLAIN)
    assert torch.equal(all_images(split, None), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_stored_images_are_not_written_to(split: TensorSplit, dtype: torch.dtype) -> None:
    split.images = split.images.to(dtype)
    before = split.images.clone()
    for view in (None, View(0, 0)):
        all_images(split, view).zero_()
    assert torch.equal(split.images, before)


def test_loading_leaves_the_global_random_state_alone(split: TensorSplit) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    all_images(split, View(0, 0))
    assert torch.equal(torch.rand(3), expected)


def test_the_random_numbers_of_a_view_are_drawn_once() -> None:
    class Counted(ShiftAndFlip):
        draws = 0

        def draw(self, count: int, generator: torch.Generator) -> Draws:
            Counted.draws += 1
            return super().draw(count, generator)

    split = make_split(Counted(2, flip=True))
    for index in torch.arange(40).split(8):
        split.load(index, View(0, 0))
    assert Counted.draws == 1


def test_a_pickled_split_gives_the_same_images_and_carries_no_random_numbers(split: TensorSplit) -> None:
    before = len(pickle.dumps(split))
    expected = all_images(split, View(2, 2))
    pickled = pickle.dumps(split)
    assert len(pickled) == before
    assert torch.equal(all_images(pickle.loads(pickled), View(2, 2)), expected)


def test_normalized_images_have_mean_0_and_deviation_1_in_every_channel() -> None:
    images = torch.rand(50, 3, 8, 8) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    mean, deviation = images.mean((0, 2, 3)), images.std((0, 2, 3))
    normalized = Normalization(tuple(mean.tolist()), tuple(deviation.tolist()))(images)
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalized.std((0, 2, 3)), torch.ones(3))


def test_a_shift_moves_the_image_by_its_offset_and_brings_in_zeros() -> None:
    images = torch.rand(3, 2, 6, 5) + 1
    shifted = shift_each(images, torch.tensor([[2, 2], [0, 2], [3, 4]]), 2)
    assert torch.equal(shifted[0], images[0])
    assert torch.equal(shifted[1, :, 2:], images[1, :, :-2])
    assert torch.equal(shifted[2, :, :-1, :-2], images[2, :, 1:, 2:])
    assert shifted[1, :, :2].count_nonzero() == 0
    assert shifted[2, :, -1].count_nonzero() == shifted[2, :, :, -2:].count_nonzero() == 0


@pytest.mark.parametrize("flip", [True, False])
def test_shifts_reach_every_offset_and_half_of_the_images_are_flipped(flip: bool) -> None:
    # Two adjacent dots: their position shows the shift, their order the flip.
    images = torch.zeros(1000, 1, 7, 8)
    images[:, 0, 3, 3], images[:, 0, 3, 4] = 1, 2
    augmentation = ShiftAndFlip(2, flip=flip)
    augmented = augmentation.apply(images, augmentation.draw(1000, torch.Generator().manual_seed(0)))
    places = (augmented == 1).nonzero()[:, 2:] - torch.tensor([3, 3])
    flipped = places[:, 1] > (augmented == 2).nonzero()[:, 3] - 3
    assert len(places) == 1000
    assert (400 < flipped.sum() < 600) if flip else not flipped.any()
    shifts = places[~flipped]
    assert {tuple(shift) for shift in shifts.tolist()} == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}


def test_the_description_changes_with_images_labels_and_every_setting() -> None:
    split = make_split(ShiftAndFlip(2, flip=True))
    others = [
        make_split(ShiftAndFlip(3, flip=True)),
        make_split(ShiftAndFlip(2, flip=False)),
        make_split(),
        make_split(count=39),
    ]
    for name in ("images", "labels"):
        other = make_split(ShiftAndFlip(2, flip=True))
        getattr(other, name).view(-1)[5] += 1
        others.append(other)
    other = make_split(ShiftAndFlip(2, flip=True))
    other.normalization = Normalization((0.41,), (0.3,))
    descriptions = [describe(each) for each in [split, *others, other]]
    assert len(set(descriptions)) == len(descriptions)
    assert describe(make_split(ShiftAndFlip(2, flip=True))) == descriptions[0]


@pytest.mark.parametrize(("held_out", "number"), [(0, 0), (0.001, 1), (0.1, 5), (0.5, 25), (0.999, 49)])
def test_held_out_is_a_random_share_of_the_samples_and_the_rest_is_trained_on(held_out: float, number: int) -> None:
    kept, held = hold_out(50, held_out, 0)
    assert len(held) == number
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(50))
    assert kept.tolist() != sorted(kept.tolist()) or len(kept) < 2


@pytest.mark.parametrize("name", sorted([*DATASETS, "folder:somewhere"]))
@pytest.mark.parametrize("held_out", [1.0, -0.1, float("nan")])
def test_an_invalid_held_out_share_is_refused_by_every_data_set(name: str, held_out: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="held_out must be in"):
        load_splits(name, tmp_path, held_out=held_out)


@pytest.mark.parametrize("name", ["cifar", "", "folder:", "folder", "hf:", "hf", "Imagenet"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    expected = (
        "dataset must be one of cifar10, cifar100, digits100, fashion100, fashion_mnist, imagenet, folder:PATH or "
        f"hf:PATH_OR_NAME, got {name!r}"
    )
    for refuse in (lambda: check_name(name), lambda: load_splits(name, tmp_path)):
        with pytest.raises(ValueError, match="dataset must be") as caught:
            refuse()
        assert str(caught.value) == expected


def test_known_names_and_folders_pass_the_check() -> None:
    for name in (*DATASETS, "folder:a/b", "folder:/x", "hf:a/b", "hf:/x"):
        check_name(name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits100", "fashion100", "fashion_mnist"])
def test_an_image_size_is_refused_where_images_have_their_own(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"image_size must be left out for dataset '{name}'"):
        load_splits(name, tmp_path, image_size=32)


@pytest.mark.parametrize("name", sorted({*DATASETS} - {"digits100"}))
def test_a_data_set_without_its_files_names_the_folder_they_belong_in(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="put") as caught:
        load_splits(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
