"""The identity of a data set: its classes and contents, never its path."""

import os
import shutil
from pathlib import Path

import pytest
from class_images import write_class_images

from training.data import load_splits
from training.data.identity import Identity, Part, class_differences


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with 4 training and 2 test images each."""
    return write_class_images(tmp_path / "images", {"ant": 60, "bee": 120}, {"train": 4, "val": 2}, (20, 20))


def identify(path: Path | str) -> Identity:
    return load_splits(f"folder:{path}", Path(), image_size=16).identity


def test_a_folder_has_the_same_identity_by_every_path_to_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = identify(folder)
    (tmp_path / "link").symlink_to(folder)
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [f"{folder}/", "images", "./images/", "elsewhere/../images", tmp_path / "link", "elsewhere/copy", "~/images"]
    for path in paths:
        assert identify(path) == expected, path
    assert load_splits("imagenet", folder, image_size=16).identity == expected
    assert expected.class_names == ("ant", "bee")
    assert {name: part.samples for name, part in expected.parts.items()} == {"train": 8, "test": 4}


def test_the_identity_does_not_depend_on_the_name_of_the_test_folder_or_the_held_out_share(folder: Path) -> None:
    expected = identify(folder)
    (folder / "val").rename(folder / "test")
    assert identify(folder) == expected
    assert load_splits(f"folder:{folder}", Path(), image_size=16, held_out=0.5).identity == expected


def test_links_to_classes_and_images_do_not_change_the_identity(folder: Path, tmp_path: Path) -> None:
    expected = identify(folder)
    (folder / "train" / "bee").rename(tmp_path / "bees")
    (folder / "train" / "bee").symlink_to(tmp_path / "bees")
    (folder / "train" / "ant" / "0.png").rename(tmp_path / "ant.png")
    (folder / "train" / "ant" / "0.png").symlink_to(tmp_path / "ant.png")
    assert identify(folder) == expected


def add(folder: Path) -> None:
    shutil.copy(folder / "train" / "ant" / "0.png", folder / "train" / "ant" / "new.png")


def remove(folder: Path) -> None:
    (folder / "train" / "bee" / "1.png").unlink()


def rename(folder: Path) -> None:
    (folder / "train" / "bee" / "1.png").rename(folder / "train" / "bee" / "one.png")


def move(folder: Path) -> None:
    (folder / "train" / "bee" / "1.png").rename(folder / "train" / "ant" / "one.png")


def replace(folder: Path) -> None:
    with (folder / "train" / "bee" / "1.png").open("ab") as file:
        file.write(b"more")


def add_to_test(folder: Path) -> None:
    shutil.copy(folder / "val" / "ant" / "0.png", folder / "val" / "ant" / "new.png")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (add, "train 8 samples sha256:X then and 9 samples sha256:X now"),
        (remove, "train 8 samples sha256:X then and 7 samples sha256:X now"),
        (rename, "train 8 samples sha256:X then and 8 samples sha256:X now"),
        (move, "train 8 samples sha256:X then and 8 samples sha256:X now"),
        (replace, "train 8 samples sha256:X then and 8 samples sha256:X now"),
        (add_to_test, "test 4 samples sha256:X then and 5 samples sha256:X now"),
    ],
)
def test_changed_contents_are_reported_by_part(change, expected: str, folder: Path) -> None:  # type: ignore[no-untyped-def]
    before = identify(folder)
    change(folder)
    (difference,) = before.differences(identify(folder))
    assert expected == " ".join("sha256:X" if word.startswith("sha256:") else word for word in difference.split())
    assert before.checksum() != identify(folder).checksum()


def test_the_time_of_a_file_does_not_change_the_identity(folder: Path) -> None:
    before = identify(folder)
    os.utime(folder / "train" / "ant" / "0.png", (1, 1))
    assert identify(folder) == before


@pytest.mark.parametrize(
    ("now", "differences"),
    [
        (("a", "b", "c"), []),
        (("b", "a", "c"), ["classes in another order: class 0 was 'a' and is 'b'"]),
        (("a", "b"), ["2 classes instead of 3, without c"]),
        (("a", "b", "d"), ["3 classes instead of 3, without c and with d"]),
        (tuple("abcdefghi"), ["9 classes instead of 3, with d, e, f, g, h, ... (6)"]),
    ],
)
def test_other_classes_are_reported_by_name(now: tuple[str, ...], differences: list[str]) -> None:
    assert class_differences(("a", "b", "c"), now) == differences
    assert Identity(("a", "b", "c"), {}).differences(Identity(now, {})) == differences


def test_an_identity_survives_conversion_to_plain_values() -> None:
    identity = Identity(("a", "caf\udce9"), {"train": Part(3, "12ab"), "test": Part(0, "")})
    assert Identity.from_dict(identity.as_dict()) == identity
    assert Identity.from_dict(identity.as_dict()).checksum() == identity.checksum()


def test_data_sets_in_memory_have_an_identity_of_names_and_contents_too() -> None:
    identity = load_splits("digits100", Path()).identity
    assert (identity.class_names[:2], identity.class_names[-1]) == (("0+0", "0+1"), "9+9")
    assert identity == load_splits("digits100", Path(), held_out=0).identity
    assert identity.parts["originals"].samples == 1797
