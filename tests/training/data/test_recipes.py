"""Augmentations by name, for images in memory and for images that are read one by one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from class_images import write_class_images
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from training.data import load_splits
from training.data.augmentations import RandomErasing, ResizedCropAndFlip, ShiftAndFlip, rectangles
from training.data.loader import Loader
from training.data.pairs import Disturbance
from training.data.recipes import AUTO_AUGMENT, RECIPES, Augmenting, of_images
from training.data.splits import Normalization, TensorSplit, View

EVERYTHING = [Augmenting(recipe, auto, erasing) for recipe in (None, *RECIPES) for auto in (None, *AUTO_AUGMENT)
              for erasing in (0.0, 0.5)]  # fmt: skip
NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))


def make_split(count: int = 40) -> TensorSplit:
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, (16, 24), mode="bicubic").clamp(0, 1)
    return TensorSplit((255 * smooth).to(torch.uint8), torch.arange(count), NORMALIZATION, ShiftAndFlip(2, flip=True))


def augmented(augmenting: Augmenting) -> TensorSplit:
    split = make_split()
    split.augmentation = of_images(augmenting, split)
    return split


@pytest.mark.parametrize("augmenting", EVERYTHING, ids=repr)
def test_an_image_is_the_same_in_every_batch_order_and_load(augmenting: Augmenting) -> None:
    view, whole = View(3, 5), augmented(augmenting).load(torch.arange(40), View(3, 5)).images
    split = augmented(augmenting)
    for index in torch.randperm(40, generator=torch.Generator().manual_seed(1)).split(7):
        torch.testing.assert_close(split.load(index, view).images, whole[index], rtol=0, atol=0)
    plain = augmenting == Augmenting("none")
    assert torch.equal(whole, split.load(torch.arange(40), View(3, 6)).images) == plain
    assert torch.equal(whole, split.load(torch.arange(40)).images) == plain


@pytest.mark.parametrize("augmenting", EVERYTHING, ids=repr)
def test_augmentation_does_not_synchronize_with_the_device(augmenting: Augmenting) -> None:
    # A tensor on meta has no values, so that reading one raises.
    with Loader(augmented(augmenting), workers=0, device=torch.device("meta")) as loader:
        (batch,) = loader.batches([torch.arange(9)], View(0, 0))
    assert (batch.images.shape, batch.images.dtype) == ((9, 3, 16, 24), torch.float32)


def test_each_recipe_is_the_augmentation_of_its_name() -> None:
    split = make_split()
    assert of_images(Augmenting(), split) is split.augmentation
    assert of_images(Augmenting("none"), split) is None
    # An eighth of the height: 4 pixels of CIFAR's 32.
    assert of_images(Augmenting("cifar"), split) == ShiftAndFlip(2, flip=True)
    assert of_images(Augmenting("imagenet"), split) == ResizedCropAndFlip(16, 24)


def test_a_resized_crop_matches_torchvision() -> None:
    images, augmentation = make_split().images, ResizedCropAndFlip(16, 24)
    boxes, flipped = augmentation.draw(40, torch.Generator().manual_seed(0))
    cropped = augmentation.apply(images, (boxes, flipped))
    for image, result, (top, left, rows, columns), mirrored in zip(images, cropped, boxes.tolist(), flipped, strict=True):
        expected = transforms.resized_crop(image, top, left, rows, columns, [16, 24], antialias=True)
        expected = expected.flip(2) if mirrored else expected
        assert (result.int() - expected.int()).abs().max() <= 1


def test_crops_have_the_published_areas_and_shapes_and_half_are_flipped() -> None:
    boxes, flipped = ResizedCropAndFlip(32, 32).draw(5000, torch.Generator().manual_seed(0))
    top, left, rows, columns = boxes.unbind(dim=1)
    assert (top >= 0).all() & (left >= 0).all() & (top + rows <= 32).all() & (left + columns <= 32).all()
    area, shape = rows * columns / 1024, columns / rows
    # Sides are rounded to pixels.
    assert 0.06 < area.min() < 0.12
    assert area.max() == 1
    assert 0.6 < shape.min() < 0.8
    assert 1.25 < shape.max() < 1.6
    assert abs(flipped.double().mean() - 0.5) < 0.03


def test_where_no_crop_fits_the_largest_one_in_the_centre_is_taken() -> None:
    narrow = ResizedCropAndFlip(8, 100, scale=(1.0, 1.0))
    boxes, _ = narrow.draw(3, torch.Generator().manual_seed(0))
    assert boxes.tolist() == [[0, 44, 8, 11]] * 3


def test_an_erased_rectangle_is_zero_after_normalization() -> None:
    split = augmented(Augmenting("none", random_erasing=0.5))
    images, plain = split.load(torch.arange(40), View(0, 0)).images, split.load(torch.arange(40)).images
    erased = (images != plain).any(1)
    assert images[erased[:, None].expand_as(images)].abs().max() < 1e-6
    assert 10 < erased.flatten(1).any(1).sum() < 30


def test_erased_rectangles_have_the_published_areas_and_shapes() -> None:
    (boxes,) = RandomErasing(0.25, 32, 32, (0.0,)).draw(4000, torch.Generator().manual_seed(0))
    kept = boxes[boxes[:, 2] > 0]
    assert abs(len(kept) / 4000 - 0.25) < 0.03
    area = rectangles(kept, 32, 32).sum((1, 2, 3)) / 1024
    assert torch.equal(area, kept[:, 2] * kept[:, 3] / 1024)
    assert 0.01 < area.min() < 0.04
    assert 0.3 < area.max() < 0.36


def test_noise_comes_after_operations_on_bytes() -> None:
    split = TensorSplit(torch.rand(20, 1, 12, 20), torch.arange(20), Normalization((0.0,), (1.0,)))
    split.augmentation = Disturbance(12, 20, shift=2, patch=4, noise=0.2)
    split.augmentation = of_images(Augmenting(auto_augment="trivialaugment"), split)
    images = split.load(torch.arange(20), View(0, 0)).images
    assert images.min() < 0
    assert images.flatten(1)[0].unique().numel() > 200


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmenting("imagenette"), "augmentation must be one of none, cifar, imagenet, got 'imagenette'"),
        (lambda: Augmenting(auto_augment="aa"), "auto_augment must be one of randaugment, trivialaugment, got 'aa'"),
        (lambda: Augmenting(random_erasing=1.5), r"random_erasing must be in \[0, 1\], got 1.5"),
    ],
)
def test_invalid_augmentations_are_refused_by_name(make: Callable[[], Augmenting], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    colours = {"ant": 60, "bee": 120}
    return write_class_images(tmp_path_factory.mktemp("pictures"), colours, {"train": 6, "val": 1}, (40, 50))


def load(folder: Path, augmenting: Augmenting, **settings: int) -> Tensor:
    splits = load_splits(f"folder:{folder}", Path(), held_out=0, image_size=16, augmenting=augmenting, **settings)
    return splits.train.load(torch.arange(len(splits.train)), View(0, 0)).images


def test_images_in_folders_take_every_augmentation(folder: Path) -> None:
    own = load(folder, Augmenting())
    assert torch.equal(own, load(folder, Augmenting("imagenet")))
    several = [load(folder, augmenting) for augmenting in EVERYTHING if augmenting.recipe is not None]
    assert all(images.shape == (12, 3, 16, 16) for images in several)
    assert not any(torch.equal(one, other) for index, one in enumerate(several) for other in several[:index])


def test_every_augmentation_has_its_own_description(folder: Path) -> None:
    several = Augmenting(), Augmenting("cifar"), Augmenting(auto_augment="randaugment"), Augmenting(random_erasing=0.1)
    for name in (f"folder:{folder}", "digits100"):
        described = {
            load_splits(name, Path(), augmenting=augmenting, train_per_class=count).transform
            for augmenting in several
            for count in (None, 2, 3)
        }
        assert len(described) == 12
