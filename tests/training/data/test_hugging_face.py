"""hf:PATH and CIFAR in Parquet files: small data sets in the layout of the Hugging Face hub, read without a network."""

import io
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from training.data import Augmenting, Columns, load_splits
from training.data.loader import Loader
from training.data.splits import TensorSplit, View


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbids network access, and gives each test its own cache."""

    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, "a local path needs no network"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(seed: int, size: tuple[int, int] = (32, 32), channels: int = 3, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(written, kind)
    return written.getvalue()


def write(path: Path, images: Sequence[bytes], image: str = "img", **columns: Sequence[Any]) -> None:
    """Writes a Parquet file with images as the hub stores them, without the metadata that declares them as images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = pyarrow.array([{"bytes": each, "path": f"{place}.png"} for place, each in enumerate(images)])
    pyarrow.parquet.write_table(pyarrow.table({image: stored, **columns}), path)


def write_cifar100(folder: Path) -> None:
    for part, count, start in (("train", 200, 0), ("test", 100, 1000)):
        labels = [index % 100 for index in range(count)]
        write(
            folder / f"{part}-00000-of-00001.parquet", [picture(start + index) for index in range(count)],
            coarse_label=[label // 5 for label in labels], fine_label=labels,
        )  # fmt: skip


@pytest.mark.parametrize("below", ["", "cifar100", "data"])
def test_cifar100_is_read_from_parquet_files(below: str, tmp_path: Path) -> None:
    write_cifar100(tmp_path / "hub" / below)
    splits = load_splits("cifar100", tmp_path / "hub")
    assert [len(split) for split in splits[:3]] == [180, 20, 100]
    assert (splits.classes, splits.channels, splits.identity.class_names) == (100, 3, ())
    pixels = np.asarray(Image.open(io.BytesIO(picture(1013)))).transpose(2, 0, 1)
    assert torch.equal(splits.test.images[13], torch.from_numpy(pixels.copy()))
    assert splits.test.labels.tolist() == list(range(100))
    both = torch.cat((splits.train.labels, splits.validation.labels))
    assert torch.equal(both.bincount(), torch.full((100,), 2))
    coarse = load_splits("hf:" + str(tmp_path / "hub" / below), Path(), columns=Columns(label="coarse_label"))
    assert coarse.classes == 20


def test_missing_cifar_files_are_an_error_that_names_both_formats_and_columns_need_parquet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cifar-100-python, or the Parquet files"):
        load_splits("cifar100", tmp_path)
    with pytest.raises(ValueError, match="cifar100 must be Parquet files for image_column and label_column"):
        load_splits("cifar100", tmp_path, columns=Columns("img"))


@pytest.mark.parametrize(
    ("size", "labels", "message"),
    [((32, 31), range(100), "must have images of 32 x 32"), ((32, 32), range(10), "must have 100 classes, got 10")],
)
def test_parquet_files_of_other_sizes_or_classes_are_refused_as_cifar(
    size: tuple[int, int], labels: range, message: str, tmp_path: Path
) -> None:
    for part in ("train", "test"):
        write(tmp_path / f"{part}.parquet", [picture(0, size)] * len(labels), label=list(labels))
    with pytest.raises(ValueError, match=message):
        load_splits("cifar100", tmp_path)


def write_small(folder: Path, **settings: Any) -> Path:
    """Ten training and five test images of two classes."""
    for part, count in (("train", 10), ("test", 5)):
        images = [picture(100 * (part == "test") + index, **settings) for index in range(count)]
        write(folder / f"{part}.parquet", images, label=[index % 2 for index in range(count)])
    return folder


def test_small_images_are_held_in_memory_and_normalized_by_their_own_statistics(tmp_path: Path) -> None:
    splits = load_splits(f"hf:{write_small(tmp_path / 'hub')}", Path("nowhere"), held_out=0)
    assert isinstance(splits.train, TensorSplit)
    assert splits.train.images.dtype == torch.uint8
    images = splits.train.load(torch.arange(10)).images
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-3)
    assert not torch.equal(splits.train.load(torch.arange(10), View(0, 0)).images, images)


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    splits = load_splits(f"hf:{write_small(tmp_path / 'hub', channels=1, size=(28, 28))}", Path())
    assert splits.channels == 1
    assert splits.test.load(torch.arange(5)).images.shape == (5, 1, 28, 28)


def test_large_images_are_read_one_by_one_by_workers_too(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "hub", size=(80, 90), kind="JPEG")
    splits = load_splits(f"hf:{folder}", Path(), image_size=48)
    assert not isinstance(splits.train, TensorSplit)
    assert [len(split) for split in splits[:3]] == [9, 1, 5]
    whole = splits.train.load(torch.arange(9), View(0, 1))
    assert whole.images.shape == (9, 3, 48, 48)
    assert torch.equal(whole.labels, splits.train.labels)
    with Loader(splits.train, workers=1) as loader:
        for batch in loader.batches(torch.arange(9).split(4), View(0, 1)):
            assert torch.equal(batch.images, whole.images[batch.index])
    assert load_splits(f"hf:{folder}", Path()).test.load(torch.arange(1)).images.shape == (1, 3, 224, 224)


def test_images_of_several_sizes_need_an_image_size(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / "hub" / f"{part}.parquet", [picture(0), picture(1, (20, 24))], label=[0, 1])
    with pytest.raises(
        ValueError, match=r"image_size must be given for .*, whose images have several sizes: 32 x 32, 20 x 24"
    ):
        load_splits(f"hf:{tmp_path / 'hub'}", Path())
    splits = load_splits(f"hf:{tmp_path / 'hub'}", Path(), image_size=16, held_out=0)
    assert splits.train.load(torch.arange(2), View(0, 0)).images.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("settings", [{}, {"image_size": 16}], ids=["in memory", "one by one"])
def test_images_that_cannot_be_read_are_left_out_and_reported(settings: dict[str, int], tmp_path: Path) -> None:
    images = [picture(0), b"no image", picture(2)[:90], picture(3)]
    for part in ("train", "test"):
        write(tmp_path / "hub" / f"{part}.parquet", images, label=[0, 1, 1, 1])
    splits = load_splits(f"hf:{tmp_path / 'hub'}", Path(), held_out=0, **settings)
    batch = splits.test.load(torch.arange(4))
    assert (batch.index.tolist(), batch.labels.tolist(), len(batch.images)) == ([0, 3], [0, 1], 2)
    assert [message.split(":")[0] for message in batch.broken] == ["hf", "hf"]
    assert all(f"test, row {row}: " in message for row, message in zip((1, 2), batch.broken, strict=True))
    assert len(splits.train.load(torch.arange(4), View(0, 0)).broken) == 2


def test_text_labels_are_classes_in_alphabetical_order_and_declared_classes_keep_their_order(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / "texts" / f"{part}.parquet", [picture(0), picture(1)], image="image", label=["wasp", "ant"])
    texts = load_splits(f"hf:{tmp_path / 'texts'}", Path())
    assert (texts.identity.class_names, texts.test.labels.tolist()) == (("ant", "wasp"), [1, 0])
    features = datasets.Features({"a": datasets.Image(), "b": datasets.ClassLabel(names=["wasp", "ant"])})
    rows = {"a": [{"bytes": picture(index), "path": None} for index in range(2)], "b": [0, 1]}
    (tmp_path / "declared").mkdir()
    for part in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "declared" / f"{part}.parquet")
    declared = load_splits(f"hf:{tmp_path / 'declared'}", Path())
    assert (declared.identity.class_names, declared.test.labels.tolist()) == (("wasp", "ant"), [0, 1])


def test_a_validation_split_in_the_files_is_used_unless_a_share_is_held_out(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("validation", 4), ("test", 5)):
        write(
            tmp_path / "hub" / f"{part}.parquet",
            [picture(index) for index in range(count)],
            label=[0, 1] * (count // 2) + [0] * (count % 2),
        )
    for settings, sizes in (({}, [10, 4, 5]), ({"held_out": 0.2}, [8, 2, 5])):
        assert [len(split) for split in load_splits(f"hf:{tmp_path / 'hub'}", Path(), **settings)[:3]] == sizes
    write(tmp_path / "hub" / "test.parquet", [picture(0)] * 5, label=[-1] * 5)
    unlabelled = load_splits(f"hf:{tmp_path / 'hub'}", Path())
    assert [len(split) for split in unlabelled[:3]] == [9, 1, 4]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (
            {"label": [0]},
            {"columns": Columns(image="picture")},
            "image_column must name a column of .*, got 'picture'; it has img, label",
        ),
        ({"kind": [0]}, {}, "label_column must name a column of .*, got None; it has img, kind"),
        ({"label": [0.5]}, {}, "label_column must hold whole numbers or texts"),
        ({"label": [-1]}, {}, "must have a labelled split"),
        ({"label": [0]}, {"columns": Columns(image="label")}, "image_column must hold images"),
    ],
)
def test_a_column_that_does_not_fit_is_named(
    columns: dict[str, list[Any]], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for part in ("train", "test"):
        write(tmp_path / "hub" / f"{part}.parquet", [picture(0)], **columns)
    with pytest.raises(ValueError, match=message):
        load_splits(f"hf:{tmp_path / 'hub'}", Path(), **settings)


def test_missing_splits_and_folders_are_named(tmp_path: Path) -> None:
    write(tmp_path / "hub" / "train.parquet", [picture(0)], label=[0])
    with pytest.raises(ValueError, match="must have a labelled split named test or validation"):
        load_splits(f"hf:{tmp_path / 'hub'}", Path())
    for name in ("./nowhere", str(tmp_path / "nowhere"), "~/nowhere"):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            load_splits(f"hf:{name}", Path())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither a folder of data files nor a hub data set"):
        load_splits(f"hf:{tmp_path / 'empty'}", Path())


def test_a_damaged_file_is_an_error_that_names_the_data_set(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "hub")
    (folder / "train.parquet").write_bytes((folder / "train.parquet").read_bytes()[:500])
    with pytest.raises(ValueError, match=f"hf:{folder} cannot be read"):
        load_splits(f"hf:{folder}", Path())


def test_changed_files_are_read_again_and_get_another_description(tmp_path: Path) -> None:
    for settings in ({}, {"image_size": 16}):
        folder = write_small(tmp_path / f"hub{len(settings)}")
        described = [load_splits(f"hf:{folder}", Path(), **settings).transform for _ in range(2)]
        write(folder / "train.parquet", [picture(index, (32, 31)) for index in range(10)], label=[0, 1] * 5)
        write(folder / "test.parquet", [picture(index, (32, 31)) for index in range(10)], label=[0, 1] * 5)
        described.append(load_splits(f"hf:{folder}", Path(), **settings).transform)
        assert described[0] == described[1] != described[2]


def test_columns_are_refused_for_data_sets_without_columns_and_an_image_size_must_be_positive(tmp_path: Path) -> None:
    for name in ("digits100", f"folder:{tmp_path}", "imagenet"):
        with pytest.raises(ValueError, match="image_column and label_column must be left out for dataset"):
            load_splits(name, tmp_path, columns=Columns(label="label"))
    with pytest.raises(ValueError, match="image_size must be at least 1"):
        load_splits(f"hf:{tmp_path}", tmp_path, image_size=0)


def test_augmentations_apply_to_hf_data_sets_and_repeat_in_every_load(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "hub")
    for settings in ({}, {"image_size": 16}):
        splits = load_splits(f"hf:{folder}", Path(), augmenting=Augmenting("cifar", "trivialaugment", 0.5), **settings)
        first, again = (splits.train.load(torch.arange(9), View(0, 0)).images for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, splits.train.load(torch.arange(9), View(0, 1)).images)


def test_a_number_of_training_samples_per_class_always_selects_the_same_samples(tmp_path: Path) -> None:
    write_cifar100(tmp_path / "hub")
    whole = load_splits("cifar100", tmp_path / "hub", held_out=0)
    first, again = (load_splits("cifar100", tmp_path / "hub", held_out=0, train_per_class=1) for _ in range(2))
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.train.labels.bincount(), torch.ones(100, dtype=torch.int64))
    assert torch.equal(first.test.images, whole.test.images)
    assert len({splits.transform for splits in (whole, first, again)}) == 2
    with pytest.raises(ValueError, match=r"train_per_class must be .* every class has for training, 2 of class 0, got 3"):
        load_splits("cifar100", tmp_path / "hub", held_out=0, train_per_class=3)
    folder = write_small(tmp_path / "small")
    one_by_one = load_splits(f"hf:{folder}", Path(), image_size=16, held_out=0, train_per_class=2)
    assert one_by_one.train.labels.bincount().tolist() == [2, 2]
    assert len(one_by_one.train.load(torch.arange(4), View(0, 0)).images) == 4


@pytest.mark.parametrize("settings", [{}, {"image_size": 16}], ids=["in memory", "one by one"])
def test_moved_data_has_the_same_identity_and_other_images_or_labels_have_another(
    settings: dict[str, int], tmp_path: Path
) -> None:
    folders = [write_small(tmp_path / name) for name in ("here", "there", "pictures", "labels")]
    write(folders[2] / "train.parquet", [picture(index, (32, 30)) for index in range(10)], label=[0, 1] * 5)
    write(folders[2] / "test.parquet", [picture(index, (32, 30)) for index in range(5)], label=[0, 1, 0, 1, 0])
    write(folders[3] / "train.parquet", [picture(index) for index in range(10)], label=[1, 0] * 5)
    here, there, pictures, labels = (load_splits(f"hf:{folder}", Path(), **settings) for folder in folders)
    assert here.identity == there.identity
    assert here.transform == there.transform
    assert here.identity.differences(pictures.identity)
    assert [difference.split()[0] for difference in here.identity.differences(labels.identity)] == ["train"]
    assert load_splits(f"hf:{folders[0]}", Path(), held_out=0.5, **settings).identity == here.identity


def test_folders_of_image_files_have_the_same_identity_at_every_path(tmp_path: Path) -> None:
    for name in ("here", "there"):
        for part, count in (("train", 4), ("test", 2)):
            for label in ("ant", "bee"):
                (tmp_path / name / part / label).mkdir(parents=True)
                for index in range(count):
                    (tmp_path / name / part / label / f"{index}.png").write_bytes(picture(index, (80, 80)))
    here, there = (load_splits(f"hf:{tmp_path / name}", Path(), image_size=16) for name in ("here", "there"))
    assert here.identity == there.identity
    assert here.identity.class_names == ("ant", "bee")
    assert here.test.load(torch.arange(4)).images.shape == (4, 3, 16, 16)


@pytest.mark.parametrize("settings", [{}, {"image_size": 8}], ids=["in memory", "one by one"])
def test_16_bit_images_are_scaled_and_images_without_a_defined_range_are_left_out(
    settings: dict[str, int], tmp_path: Path
) -> None:
    stored = []
    for pixels, kind in ((np.full((8, 8), 32896, np.uint16), "PNG"), (np.full((8, 8), 0.5, np.float32), "TIFF")):
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, kind)
        stored.append(written.getvalue())
    for part in ("train", "test"):
        write(tmp_path / "hub" / f"{part}.parquet", [picture(0, (8, 8)), *stored], label=[0, 1, 1])
    splits = load_splits(f"hf:{tmp_path / 'hub'}", Path(), held_out=0, **settings)
    batch = splits.test.load(torch.arange(3))
    assert batch.index.tolist() == [0, 1]
    assert "no defined range" in batch.broken[0]
    if isinstance(splits.test, TensorSplit):
        assert splits.test.images[1].unique().tolist() == [128]
    else:
        # (128 / 255 - mean) / deviation of ImageNet's red.
        torch.testing.assert_close(batch.images[1, 0], torch.full((8, 8), (128 / 255 - 0.485) / 0.229))
