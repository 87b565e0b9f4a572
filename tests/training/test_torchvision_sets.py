"""fashion_mnist and cifar100 from files in the formats that they are published in."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from training.data.torchvision_sets import load_cifar100, load_fashion_mnist


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def fashion_folder(tmp_path: Path) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


@pytest.fixture
def cifar_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 20)):
        content = {
            "data": random.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": [index % 100 for index in range(count)],
        }
        (folder / part).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(index) for index in range(100)]}))
    # The checksums are those of the published files, and these are small ones of the same form.
    monkeypatch.setattr(datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    return tmp_path


def test_fashion_mnist_is_read_from_idx_files(fashion_folder: Path) -> None:
    splits = load_fashion_mnist(fashion_folder)
    assert [len(split.labels) for split in splits[:3]] == [36, 4, 20]
    assert splits.test.images.shape == (20, 1, 28, 28)
    assert splits.test.labels.tolist() == [index % 10 for index in range(20)]
    raw = (fashion_folder / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert splits.test.images[0, 0, 0, 0].item() == pytest.approx((raw[16] / 255 - 0.2860) / 0.3530, rel=1e-5)


def test_cifar100_is_read_from_its_python_files(cifar_folder: Path) -> None:
    splits = load_cifar100(cifar_folder)
    assert [len(split.labels) for split in splits[:3]] == [36, 4, 20]
    content = pickle.loads((cifar_folder / "cifar-100-python" / "test").read_bytes())
    blue = content["data"][3].reshape(3, 32, 32)[2] / 255
    np.testing.assert_allclose(splits.test.images[3, 2].numpy(), (blue - 0.4408) / 0.2761, rtol=1e-4, atol=1e-6)


def test_training_and_validation_share_no_image(fashion_folder: Path) -> None:
    splits = load_fashion_mnist(fashion_folder)
    both = torch.cat([splits.train.images, splits.validation.images])
    assert both.flatten(1).unique(dim=0).shape[0] == 40


def test_augmentation_keeps_the_shape(fashion_folder: Path) -> None:
    images = load_fashion_mnist(fashion_folder).train.images
    assert load_fashion_mnist(fashion_folder).augment(images, torch.Generator().manual_seed(0)).shape == images.shape


def test_the_validation_images_are_a_random_tenth_that_keeps_its_labels(fashion_folder: Path) -> None:
    raw = fashion_folder / "FashionMNIST" / "raw"
    write_idx(raw / "train-images-idx3-ubyte", np.repeat(np.arange(40), 28 * 28).reshape(40, 28, 28))
    splits = load_fashion_mnist(fashion_folder)
    for split in (splits.train, splits.validation):
        index = ((split.images[:, 0, 0, 0] * 0.3530 + 0.2860) * 255).round().long()
        assert torch.equal(split.labels, index % 10)
        assert index.tolist() != sorted(index.tolist())


def test_augmentation_flips_half_of_the_images(fashion_folder: Path) -> None:
    images = torch.zeros(200, 1, 28, 28)
    images[:, 0, 14, :14] = 1
    augmented = load_fashion_mnist(fashion_folder).augment(images, torch.Generator().manual_seed(0))
    columns = torch.arange(28.0)
    centre = (augmented * columns).sum((1, 2, 3)) / augmented.sum((1, 2, 3))
    assert 60 < (centre > 13.5).sum() < 140


@pytest.mark.parametrize("size", [0, 2, 500])
def test_a_truncated_file_is_an_error_that_names_the_data_set(fashion_folder: Path, size: int) -> None:
    images = fashion_folder / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:size])
    with pytest.raises((ValueError, FileNotFoundError), match="fashion_mnist: put"):
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
    ("load", "expected"), [(load_fashion_mnist, "train-images-idx3-ubyte"), (load_cifar100, "cifar-100-python")]
)
def test_missing_files_are_named_with_the_folder_they_belong_in(load, expected: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FileNotFoundError, match=expected) as caught:
        load(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
