"""Which folders are classes, which files are images, and how the rest is reported."""

import os
from pathlib import Path

import pytest

from training.data.class_folders import describe_left_out, list_classes


def put(folder: Path, *names: str) -> None:
    """Creates empty files, and the folders that they are in."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "train", "ant/1.jpg", "ant/0.jpg", "bee/0.png")
    return tmp_path / "train"


def listed(folder: Path) -> tuple[list[str], str]:
    """The images, and the description of what was left out."""
    listing = list_classes(folder)
    return listing.paths, describe_left_out(listing.left_out)


def test_classes_and_their_images_are_sorted_by_name(folder: Path) -> None:
    listing = list_classes(folder)
    assert listing.classes == ("ant", "bee")
    assert (listing.paths, listing.labels) == (["ant/0.jpg", "ant/1.jpg", "bee/0.png"], [0, 0, 1])
    assert not listing.left_out


@pytest.mark.parametrize("ending", ["gif", "jfif", "JPG", "JPEG", "Png", "webp", "bmp", "TIFF", "jp2", "ppm", "mpo"])
def test_files_with_extensions_that_pillow_reads_are_images_in_upper_or_lower_case(ending: str, folder: Path) -> None:
    put(folder, f"bee/x.{ending}")
    assert f"bee/x.{ending}" in listed(folder)[0]


def test_images_in_subfolders_of_a_class_belong_to_it(folder: Path) -> None:
    put(folder, "ant/b/3.jpg", "ant/a/deep/2.jpg", "ant/a/1.jpg")
    assert listed(folder)[0] == ["ant/0.jpg", "ant/1.jpg", "ant/a/1.jpg", "ant/a/deep/2.jpg", "ant/b/3.jpg", "bee/0.png"]


@pytest.mark.parametrize(
    ("names", "description"),
    [
        ([".ipynb_checkpoints/0-checkpoint.jpg"], "1 hidden (a dot in front)"),
        (["ant/.ipynb_checkpoints/0-checkpoint.jpg", "bee/._0.jpg", ".DS_Store"], "3 hidden (a dot in front)"),
        (["__MACOSX/ant/0.jpg"], "1 __MACOSX"),
        (["ant/@eaDir/0.jpg/thumbnail.jpg", "bee/@eaDir/0.jpg/thumbnail.jpg"], "2 @eaDir"),
        (["lost+found/0.jpg", "$RECYCLE.BIN/1.jpg"], "1 $RECYCLE.BIN, 1 lost+found"),
        ([f"ant/{number}.txt" for number in range(12)] + ["bee/x.Svg", "bee/y.svg"], "12 .txt, 2 .svg"),
        (
            ["labels.csv", "stray.jpg", "ant/README"],
            "1 .csv outside the class folders, 1 .jpg outside the class folders, 1 without an extension",
        ),
    ],
)
def test_everything_else_is_left_out_and_counted_by_kind(names: list[str], description: str, folder: Path) -> None:
    expected, _ = listed(folder)
    put(folder, *names)
    assert listed(folder) == (expected, description)


def test_links_to_classes_and_images_are_followed(folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "wasps/0.jpg", "wasps/1.jpg", "photo.jpg")
    (folder / "wasp").symlink_to(tmp_path / "elsewhere" / "wasps")
    (folder / "bee" / "1.jpg").symlink_to(tmp_path / "elsewhere" / "photo.jpg")
    assert listed(folder)[0] == ["ant/0.jpg", "ant/1.jpg", "bee/0.png", "bee/1.jpg", "wasp/0.jpg", "wasp/1.jpg"]


def test_broken_and_circular_links_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    (folder / "wasp").symlink_to(tmp_path / "nowhere")
    (folder / "ant" / "notes").symlink_to(tmp_path / "nowhere")
    (folder / "ant" / "again").symlink_to(folder / "ant")
    assert listed(folder) == (["ant/0.jpg", "ant/1.jpg", "bee/0.png"], "2 broken link, 1 link to a parent folder")


def test_an_image_that_is_a_broken_link_is_listed_so_that_reading_it_reports_it(folder: Path, tmp_path: Path) -> None:
    (folder / "ant" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    listing = list_classes(folder)
    assert dict(zip(listing.paths, listing.sizes, strict=True))["ant/gone.jpg"] == -1


def test_names_that_are_not_utf8_are_kept(folder: Path) -> None:
    os.makedirs(os.fsencode(folder) + b"/caf\xe9")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9/cr\xe8me [x].png")).touch()
    listing = list_classes(folder)
    assert listing.classes == ("ant", "bee", "caf\udce9")
    assert listing.paths[-1] == "caf\udce9/cr\udce8me [x].png"
    assert listing.part.samples == 4


def test_a_class_without_an_image_is_named_with_its_other_files(folder: Path) -> None:
    put(folder, "cat/0.txt", "cat/1.txt", "dog/.hidden.jpg")
    (folder / "emu").mkdir()
    with pytest.raises(FileNotFoundError, match="no image that Pillow reads") as caught:
        list_classes(folder)
    expected = "cat (left out: 2 .txt), dog (left out: 1 hidden (a dot in front)), emu"
    assert str(caught.value).endswith(f"for: {expected}")


def test_a_folder_without_class_folders_is_refused(folder: Path) -> None:
    put(folder.parent / "flat", "0.jpg", "1.jpg")
    with pytest.raises(
        FileNotFoundError, match=r"flat has no folder that is a class \(left out: 2 \.jpg outside the class folders\)"
    ):
        list_classes(folder.parent / "flat")
