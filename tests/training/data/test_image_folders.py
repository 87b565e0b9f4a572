"""imagenet and folder:PATH: JPEG and PNG files in a folder for each class, some of them broken."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from class_images import write_class_images
from PIL import Image

from training.data import load_splits
from training.data.loader import Loader
from training.data.splits import Splits, View

CLASSES = ("ant", "bee", "cat")
GREYS = {"ant": 60, "bee": 120, "cat": 180}
"""The grey of each class, before noise."""
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with 6 training and 3 test images each, which tests must not change."""
    return write_class_images(tmp_path_factory.mktemp("images"), GREYS, {"train": 6, "val": 3}, (40, 50), "jpg")


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(shared, tmp_path / "images")


def load(folder: Path, held_out: float | None = 0, image_size: int = 16) -> Splits:
    return load_splits("imagenet", folder, held_out=held_out, image_size=image_size)


def test_every_class_is_read_from_its_own_folder(shared: Path) -> None:
    splits = load(shared)
    assert (len(splits.train), len(splits.test), splits.classes, splits.channels) == (18, 9, 3, 3)
    assert splits.train.labels.dtype == torch.int64
    for split in (splits.train, splits.test):
        batch = split.load(torch.arange(len(split)))
        assert batch.images.shape == (len(split), 3, 16, 16)
        assert batch.images.dtype == torch.float32
        assert batch.broken == ()
        means = (batch.images * DEVIATION + MEAN).mean((1, 2, 3)) * 255
        expected = torch.tensor([GREYS[CLASSES[label]] for label in batch.labels.tolist()])
        assert torch.equal(batch.labels, split.labels)
        assert (means - expected).abs().max() < 10


def test_imagenet_may_be_in_a_subfolder_of_that_name_and_folder_has_the_same_layout(shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared, tmp_path / "imagenet")
    for splits in (
        load(tmp_path),
        load_splits(f"folder:{shared}", tmp_path / "nowhere", held_out=0, image_size=16),
    ):
        first = splits.train.load(torch.arange(4), View(0, 0)).images
        assert torch.equal(first, load(shared).train.load(torch.arange(4), View(0, 0)).images)


def test_a_folder_may_have_test_instead_of_val_but_not_both(folder: Path) -> None:
    shutil.copytree(folder / "val", folder / "test")
    with pytest.raises(ValueError, match="either val or test"):
        load_splits(f"folder:{folder}", Path(), image_size=16)
    shutil.rmtree(folder / "val")
    assert len(load_splits(f"folder:{folder}", Path(), image_size=16).test) == 9


def test_an_image_depends_on_seed_view_and_sample_alone(shared: Path) -> None:
    train = load(shared).train
    view = View(3, 1)
    whole = train.load(torch.arange(18), view).images
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(99)
    for size in (1, 5):
        for index in order.split(size):
            batch = train.load(index, view)
            assert torch.equal(batch.images, whole[index])
            assert torch.equal(batch.index, index)
    with Loader(load(shared).train, workers=2) as loader:
        for batch in loader.batches(order.split(4), view):
            assert torch.equal(batch.images, whole[batch.index])


def test_other_views_and_seeds_give_other_images(shared: Path) -> None:
    train = load(shared).train
    index = torch.arange(18)
    first = train.load(index, View(0, 0)).images
    for other in (View(0, 1), View(1, 0), View(0, -1)):
        assert (train.load(index, other).images != first).flatten(1).any(1).all()


def test_each_sample_of_a_view_has_its_own_crop(folder: Path) -> None:
    for name in CLASSES:
        for path in (folder / "train" / name).iterdir():
            Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint32).reshape(40, 50, 3).astype(np.uint8)).save(path)
    images = load(folder).train.load(torch.arange(18), View(0, 0)).images
    assert images.flatten(1).unique(dim=0).shape[0] == 18


def test_loading_leaves_the_global_random_state_alone(shared: Path) -> None:
    train = load(shared).train
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train.load(torch.arange(3), View(0, 0))
    assert torch.equal(torch.rand(3), expected)


def test_a_view_crops_a_part_of_each_image_and_flips_half_of_them(folder: Path) -> None:
    # From left to right the image gets brighter: its slope shows the flip, its range the crop.
    ramp = np.repeat(np.linspace(0, 255, 50)[None], 40, axis=0)
    for name in CLASSES:
        for path in (folder / "train" / name).iterdir():
            Image.fromarray(np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8)).save(path, quality=100)
    train = load(folder).train
    images = torch.cat([train.load(torch.arange(18), View(0, number)).images for number in range(20)])
    rows = (images * DEVIATION + MEAN)[:, 0].mean(1)
    slopes = rows[:, -1] - rows[:, 0]
    assert 120 < (slopes < 0).sum() < 240
    assert slopes.abs().min() < 0.4
    assert slopes.abs().max() > 0.8


def test_without_a_view_and_for_testing_the_centre_is_cropped(folder: Path) -> None:
    # The crop removes 4 of 64 pixels on every side and with them the black frame of 3, unless it is off-centre or scaled.
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:] = 0, 0, 0, 0
    for part in ("train", "val"):
        Image.fromarray(pixels).save(folder / part / "ant" / "0.png")
        (folder / part / "ant" / "0.jpg").unlink()
    splits = load(folder, image_size=56)
    for split, view in ((splits.train, None), (splits.test, View(0, 0)), (splits.test, None)):
        # The order of training samples is random.
        framed = torch.tensor([split.paths.tolist().index(b"ant/0.png")])
        images = split.load(framed, view).images
        assert images.shape == (1, 3, 56, 56)
        assert ((images * DEVIATION + MEAN) > 0.999).all()


def test_the_default_size_is_224_and_the_default_share_one_hundredth(shared: Path) -> None:
    splits = load_splits("imagenet", shared)
    assert splits.train.load(torch.tensor([0]), View(0, 0)).images.shape == (1, 3, 224, 224)
    assert splits.test.load(torch.tensor([0])).images.shape == (1, 3, 224, 224)
    assert (len(splits.train), len(splits.validation)) == (17, 1)


def test_validation_and_test_images_are_not_augmented(shared: Path) -> None:
    splits = load(shared, held_out=0.34)
    for split in (splits.validation, splits.test):
        index = torch.arange(len(split))
        assert torch.equal(split.load(index, View(0, 0)).images, split.load(index).images)


def test_held_out_images_are_not_trained_on(folder: Path) -> None:
    grey = 0
    for name in CLASSES:
        for path in sorted((folder / "train" / name).iterdir()):
            Image.fromarray(np.full((20, 20, 3), grey, dtype=np.uint8)).save(path.with_suffix(".png"))
            path.unlink()
            grey += 10
    splits = load(folder, held_out=0.34)
    seen = []
    for split, number in ((splits.train, 12), (splits.validation, 6)):
        batch = split.load(torch.arange(len(split)), View(0, 0))
        greys = ((batch.images * DEVIATION + MEAN)[:, 0, 8, 8] * 255).round().long()
        assert torch.equal(greys // 60, batch.labels)
        assert len(greys) == number
        seen += greys.tolist()
    assert sorted(seen) == list(range(0, 180, 10))
    assert load(folder).validation is None


@pytest.mark.parametrize("view", [None, View(0, 0)])
def test_images_that_cannot_be_read_are_left_out_and_reported_with_their_paths(folder: Path, view: View | None) -> None:
    ant, bee = folder / "train" / "ant", folder / "train" / "bee"
    expected = load(folder).train.load(torch.arange(18), view).images
    (ant / "1.jpg").write_bytes((ant / "1.jpg").read_bytes()[:300])
    (ant / "4.jpg").write_bytes(b"")
    (bee / "0.jpg").write_text("no image")
    train = load(folder).train
    (bee / "2.jpg").unlink()
    batch = train.load(torch.arange(18), view)
    # The order of the samples is random: they are found by their paths.
    lost = [train.paths.tolist().index(path) for path in (b"ant/1.jpg", b"ant/4.jpg", b"bee/0.jpg", b"bee/2.jpg")]
    assert batch.index.tolist() == [sample for sample in range(18) if sample not in lost]
    assert torch.equal(batch.labels, train.labels[batch.index])
    assert torch.equal(batch.images, expected[batch.index])
    assert len(batch.broken) == 4
    for path in (ant / "1.jpg", ant / "4.jpg", bee / "0.jpg", bee / "2.jpg"):
        assert sum(str(path) in message for message in batch.broken) == 1
    nothing = train.load(torch.tensor(lost[:2]), view)
    assert len(nothing.images) == len(nothing.labels) == len(nothing.index) == 0
    assert len(nothing.broken) == 2


def save_grey(path: Path) -> None:
    Image.fromarray(np.full((20, 20), 120, dtype=np.uint8)).save(path.with_suffix(".png"))


def save_palette(path: Path) -> None:
    Image.fromarray(np.full((20, 20, 3), 120, dtype=np.uint8)).convert("P", palette=Image.Palette.ADAPTIVE).save(
        path.with_suffix(".png")
    )


def save_cmyk(path: Path) -> None:
    Image.fromarray(np.full((20, 20, 3), 120, dtype=np.uint8)).convert("CMYK").save(path, quality=100)


def save_transparent(path: Path) -> None:
    Image.fromarray(np.full((20, 20, 4), 120, dtype=np.uint8)).save(path.with_suffix(".png"))


def save_with_damaged_exif(path: Path) -> None:
    Image.fromarray(np.full((20, 20, 3), 120, dtype=np.uint8)).save(path, quality=100, exif=b"Exif\x00\x00II*\x00garbage")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("save", [save_grey, save_palette, save_cmyk, save_transparent, save_with_damaged_exif])
def test_images_of_every_kind_become_rgb(folder: Path, save) -> None:  # type: ignore[no-untyped-def]
    path = folder / "val" / "ant" / "0.jpg"
    path.unlink()
    save(path)
    batch = load(folder).test.load(torch.tensor([0]))
    assert batch.broken == ()
    torch.testing.assert_close((batch.images * DEVIATION + MEAN) * 255, torch.full((1, 3, 16, 16), 120.0), rtol=0, atol=2)


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_folder_is_an_error_that_shows_the_layout(folder: Path, missing: str) -> None:
    shutil.rmtree(folder / missing)
    with pytest.raises(FileNotFoundError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith("imagenet: put a folder of images for every class into")
    assert str(folder / "train") in message
    assert str(folder / "val") in message
    assert f"{folder / missing} is missing" in message


def test_a_class_without_images_is_named(folder: Path) -> None:
    for path in (folder / "train" / "bee").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(FileNotFoundError, match="put a folder of images") as caught:
        load(folder)
    assert "bee" in str(caught.value)


def test_a_folder_without_classes_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="put a folder of images") as caught:
        load(folder)
    assert str(folder / "val") in str(caught.value)


def test_classes_that_differ_between_the_folders_are_named(folder: Path) -> None:
    (folder / "val" / "cat").rename(folder / "val" / "dog")
    with pytest.raises(ValueError, match="must have the same classes, got only in one of them: cat, dog"):
        load(folder)


def test_an_impossible_size_is_refused(shared: Path) -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        load(shared, image_size=0)


def test_two_loads_are_identical_and_other_sizes_files_or_shares_have_another_description(folder: Path) -> None:
    first, again = load(folder), load(folder)
    index = torch.arange(18)
    assert torch.equal(first.train.load(index, View(1, 1)).images, again.train.load(index, View(1, 1)).images)
    described = [first.transform, load(folder, image_size=17).transform, load(folder, held_out=0.5).transform]
    assert again.transform == first.transform
    (folder / "train" / "ant" / "0.jpg").rename(folder / "train" / "ant" / "00.jpg")
    described.append(load(folder).transform)
    assert len(set(described)) == 4
