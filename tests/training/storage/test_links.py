"""Nothing below the folder that the user named is written through a symbolic link; that folder itself may be one."""

from pathlib import Path

import pytest

from training.data import digits100
from training.loop.teacher_cache import TeacherCache
from training.report import plot_curves
from training.storage import files
from training.storage.records import Records
from training.storage.run_folder import METRICS
from training.train import main as train


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that nothing may be written to, with a file that must stay as it is."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "file").write_text("untouched")
    return folder


def untouched(elsewhere: Path) -> bool:
    return [path.name for path in elsewhere.iterdir()] == ["file"] and (elsewhere / "file").read_text() == "untouched"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_a_link_in_place_of_a_file_is_replaced(folder: Path, elsewhere: Path) -> None:
    (folder / "result.json").symlink_to(elsewhere / "file")
    files.write_text(folder / "result.json", "new")
    assert not (folder / "result.json").is_symlink()
    assert (folder / "result.json").read_text() == "new"
    assert untouched(elsewhere)


def test_a_link_in_place_of_a_plot_is_replaced(folder: Path, elsewhere: Path) -> None:
    (folder / "curves.png").symlink_to(elsewhere / "file")
    plot_curves({}, 80.0, folder / "curves.png")
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert untouched(elsewhere)


def test_a_link_in_place_of_a_temporary_file_is_not_followed(
    folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    planted = folder / "result.json.guessed.tmp"
    planted.symlink_to(elsewhere / "file")
    with pytest.raises(FileExistsError):
        files.write_text(folder / "result.json", "new")
    assert planted.is_symlink()
    assert not (folder / "result.json").exists()
    assert untouched(elsewhere)


def test_two_temporary_files_have_different_names(folder: Path) -> None:
    names: list[set[str]] = []
    for _ in range(2):
        files.write(folder / "state.pt", lambda _: names.append({path.name for path in folder.glob("*.tmp")}))
    assert len(names[0]) == len(names[1]) == 1
    assert names[0] != names[1]


@pytest.mark.parametrize("target", ["file", "missing"])
def test_nothing_is_appended_through_a_link(target: str, folder: Path, elsewhere: Path) -> None:
    (folder / "log.txt").symlink_to(elsewhere / target)
    with pytest.raises(OSError, match=r"log\.txt"):
        files.append(folder / "log.txt")
    assert untouched(elsewhere)


def test_appended_content_follows_the_existing_content(folder: Path) -> None:
    for text in (b"one ", b"two"):
        with files.append(folder / "log.txt") as file:
            file.write(text)
    assert (folder / "log.txt").read_bytes() == b"one two"


@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_a_link_in_place_of_a_folder_is_refused(target: str, tmp_path: Path, folder: Path, elsewhere: Path) -> None:
    (folder / "seed-0").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match="must be a folder, got a symbolic link"):
        files.make_folder(folder / "seed-0")
    assert untouched(elsewhere)
    assert not (tmp_path / "missing").exists()


def test_metrics_and_scalars_are_not_written_through_links(folder: Path, elsewhere: Path) -> None:
    (folder / METRICS).symlink_to(elsewhere / "file")
    (folder / "tensorboard").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="tensorboard must be a folder"):
        Records(folder, [])
    assert untouched(elsewhere)


@pytest.mark.parametrize("name", ["description.json", "view-0.logits", "view-0.logits.checksums", "view-0.features"])
def test_a_cache_is_not_written_through_a_link(name: str, folder: Path, elsewhere: Path) -> None:
    (folder / name).symlink_to(elsewhere / "file")
    with pytest.raises((OSError, ValueError), match=r"symbolic link|damaged or not a cache"):
        TeacherCache(folder, {}, views=1, samples=3, classes=4, features=2)
    assert untouched(elsewhere)


def test_the_folder_that_the_user_named_may_be_a_link(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits100, "PAIRS", {"train": 160, "validation": 40, "test": 40})
    (tmp_path / "link").symlink_to(folder)
    for output in ("link", "link/below"):
        arguments = ["--method", "ce", "--student", "cnn_tiny", "--epochs", "1", "--output", str(tmp_path / output)]
        assert train(arguments) == 0
    assert (folder / "result.json").exists()
    assert (folder / "below" / "result.json").exists()
