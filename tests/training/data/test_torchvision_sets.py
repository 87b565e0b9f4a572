"""fashion_mnist, cifar10 and cifar100 from files in the formats that they are published in."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_fashion_mnist, write_idx
from torchvision import datasets

from training.data.splits import Splits, View
from training.data.torchvision_sets import load_cifar10, load_cifar100, load_fashion_mnist

Load = Callable[..., Splits]


@pytest.fixture
def fashion_folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    write_fashion_mnist(
        tmp_path, {part: random.integers(0, 256, (count, 28, 28)) for part, count in (("train", 40), ("test", 20))}
    )
    return tmp_path


def write_batch(path: Path, label_key: str, count: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = [index % classes for index in range(count)]
    path.write_bytes(pickle.dumps({"data": random.integers(0, 256, (count, 3072), dtype=np.uint8), label_key: labels}))


@pytest.fixture
def cifar_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 training and 20 test images of CIFAR-100 and of CIFAR-10."""
    hundred, ten = tmp_path / "cifar-100-python", tmp_path / "cifar-10-batches-py"
    hundred.mkdir()
    ten.mkdir()
    write_batch(hundred / "train", "fine_labels", 40, 100, 0)
    write_batch(hundred / "test", "fine_labels", 20, 100, 1)
    (hundred / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(index) for index in range(100)]}))
    for number in range(1, 6):
        write_batch(ten / f"data_batch_{number}", "labels", 8, 10, number)
    write_batch(ten / "test_batch", "labels", 20, 10, 6)
    (ten / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(index) for index in range(10)]}))
    # The checksums are those of the published files, and these are small files in the same format.
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    return tmp_path


def test_fashion_mnist_is_read_from_idx_files(fashion_folder: Path) -> None:
    splits = load_fashion_mnist(fashion_folder)
    assert [len(split) for split in splits[:3]] == [36, 4, 20]
    assert (splits.classes, splits.channels) == (10, 1)
    batch = splits.test.load(torch.arange(20))
    assert batch.images.shape == (20, 1, 28, 28)
    assert batch.labels.tolist() == [index % 10 for index in range(20)]
    raw = (fashion_folder / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert batch.images[0, 0, 0, 0].item() == pytest.approx((raw[16] / 255 - 0.2860) / 0.3530, rel=1e-5)


def test_fashion_mnist_in_the_old_format_of_torchvision_is_read(fashion_folder: Path) -> None:
    published = load_fashion_mnist(fashion_folder)
    processed = fashion_folder / "FashionMNIST" / "processed"
    processed.mkdir()
    for train, name in ((True, "training.pt"), (False, "test.pt")):
        part = datasets.FashionMNIST(str(fashion_folder), train=train)
        torch.save((part.data, part.targets), processed / name)
    shutil.rmtree(fashion_folder / "FashionMNIST" / "raw")
    assert load_fashion_mnist(fashion_folder).identity == published.identity


@pytest.mark.parametrize(
    ("load", "file", "blue_mean", "blue_deviation", "classes"),
    [
        (load_cifar10, "cifar-10-batches-py/test_batch", 0.4465, 0.2616, 10),
        (load_cifar100, "cifar-100-python/test", 0.4408, 0.2761, 100),
    ],
)
def test_cifar_is_read_from_its_python_files(
    cifar_folder: Path, load: Load, file: str, blue_mean: float, blue_deviation: float, classes: int
) -> None:
    splits = load(cifar_folder)
    assert [len(split) for split in splits[:3]] == [36, 4, 20]
    assert (splits.classes, splits.channels) == (classes, 3)
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.labels.dtype == torch.int64
    content = pickle.loads((cifar_folder / file).read_bytes())
    batch = splits.test.load(torch.tensor([13]))
    blue = content["data"][13].reshape(3, 32, 32)[2] / 255
    np.testing.assert_allclose(batch.images[0, 2].numpy(), (blue - blue_mean) / blue_deviation, rtol=1e-4, atol=1e-6)
    assert batch.labels.item() == 13 % classes


@pytest.mark.parametrize("load", [load_cifar10, load_cifar100])
def test_the_python_files_of_cifar_are_read_also_where_parquet_files_are(cifar_folder: Path, load: Load) -> None:
    expected = load(cifar_folder).test.images
    for part in ("train", "test"):
        (cifar_folder / f"{part}.parquet").write_bytes(b"would be refused")
    assert torch.equal(load(cifar_folder).test.images, expected)


def test_training_and_validation_share_no_image(fashion_folder: Path) -> None:
    splits = load_fashion_mnist(fashion_folder)
    both = torch.cat([splits.train.images, splits.validation.images])
    assert both.flatten(1).unique(dim=0).shape[0] == 40


def test_the_validation_images_are_a_random_tenth_that_keeps_its_labels(fashion_folder: Path) -> None:
    raw = fashion_folder / "FashionMNIST" / "raw"
    write_idx(raw / "train-images-idx3-ubyte", np.repeat(np.arange(40), 28 * 28).reshape(40, 28, 28))
    splits = load_fashion_mnist(fashion_folder)
    for split in (splits.train, splits.validation):
        index = split.images[:, 0, 0, 0].long()
        assert torch.equal(split.labels, index % 10)
        assert index.tolist() != sorted(index.tolist())


def test_without_a_held_out_share_every_image_is_trained_on(fashion_folder: Path) -> None:
    splits = load_fashion_mnist(fashion_folder, held_out=0)
    assert splits.validation is None
    assert len(splits.train) == 40
    assert len(load_fashion_mnist(fashion_folder, held_out=0.25).validation) == 10


@pytest.mark.parametrize(("load", "largest"), [(load_fashion_mnist, 2), (load_cifar10, 4), (load_cifar100, 4)])
def test_a_view_shifts_and_flips_the_training_images_and_no_others(
    request: pytest.FixtureRequest, load: Load, largest: int
) -> None:
    folder = request.getfixturevalue("fashion_folder" if load is load_fashion_mnist else "cifar_folder")
    splits = load(folder)
    for split in (splits.validation, splits.test):
        index = torch.arange(len(split))
        assert torch.equal(split.load(index, View(0, 0)).images, split.load(index).images)
    middle = splits.train.images.shape[3] // 2
    splits.train.images.zero_()
    splits.train.images[..., middle - 1] = 100
    splits.train.images[..., middle] = 200
    index = torch.arange(36)
    black, grey, white = (
        (value / 255 - splits.train.normalization.mean[0]) / splits.train.normalization.deviation[0]
        for value in (0, 100, 200)
    )
    shifts, flips = set(), 0
    for number in range(20):
        rows = splits.train.load(index, View(0, number)).images[:, 0, middle]
        assert torch.isclose(rows[:, :, None], torch.tensor([black, grey, white]), atol=1e-4).any(2).all()
        flips += int(((rows - grey).abs().argmin(1) > (rows - white).abs().argmin(1)).sum())
        shifts |= set((((rows - black) > 0.1).int().argmax(1) - (middle - 1)).tolist())
    assert shifts == set(range(-largest, largest + 1))
    assert 288 < flips < 432


def test_two_loads_are_identical(cifar_folder: Path) -> None:
    first, again = (load_cifar10(cifar_folder) for _ in range(2))
    index = torch.arange(36)
    assert torch.equal(first.train.load(index, View(1, 2)).images, again.train.load(index, View(1, 2)).images)
    assert torch.equal(first.validation.images, again.validation.images)
    assert first.transform == again.transform


@pytest.mark.parametrize("size", [0, 2, 500])
def test_a_truncated_file_is_an_error_that_names_the_data_set(fashion_folder: Path, size: int) -> None:
    images = fashion_folder / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:size])
    with pytest.raises((ValueError, FileNotFoundError), match="Fashion-MNIST: put"):
        load_fashion_mnist(fashion_folder)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(np.arange(39) % 10, "40 images and 39 labels"), (np.full(40, 77), "in \\[0, 10\\), got 77 to 77")],
)
def test_labels_that_do_not_belong_to_the_images_are_refused(
    fashion_folder: Path, labels: np.ndarray, expected: str
) -> None:
    write_idx(fashion_folder / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", labels)
    with pytest.raises(ValueError, match=expected):
        load_fashion_mnist(fashion_folder)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (load_fashion_mnist, "train-images-idx3-ubyte"),
        (load_cifar10, "cifar-10-batches-py"),
        (load_cifar100, "cifar-100-python"),
    ],
)
def test_missing_files_are_named_with_the_folder_they_belong_in(load: Load, expected: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=expected) as caught:
        load(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
