"""Runs on folders of images: the contents identify the data, and files that are not images are reported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from class_images import write_class_images
from PIL import Image
from stopped_runs import stop_after_save

from training.config import Config
from training.train import main

ROOT = Path(__file__).parents[2]
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of noisy greys, 8 training and 4 test images each."""
    colours = {name: 60 + 60 * label for label, name in enumerate(CLASSES)}
    return write_class_images(tmp_path / "data", colours, {"train": 8, "val": 4}, (20, 20))


def arguments(data: Path | str, output: Path, *more: str) -> list[str]:
    return [
        "--dataset", f"folder:{data}", "--image-size", "16", "--student", "cnn_tiny", "--epochs", "2", "--batch-size", "8",
        "--held-out", "0.2", "--output", str(output), *([] if "--method" in more else ["--method", "ce"]), *more,
    ]  # fmt: skip


@pytest.fixture
def unfinished(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that stopped in its second epoch."""
    with monkeypatch.context() as patch:
        stop_after_save(patch, epoch=2)
        assert main(arguments(folder, tmp_path / "run")) == 2
    return tmp_path / "run"


def test_a_run_whose_data_changed_is_not_resumed(unfinished: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "train" / "bee" / "0.png", folder / "train" / "ant" / "new.png")
    assert main(["--config", str(unfinished / "config.yaml"), "--resume"]) == 2
    errors = capsys.readouterr().err
    assert "had other data: train 24 samples" in errors
    assert "25 samples" in errors
    (folder / "train" / "ant" / "new.png").unlink()
    assert main(["--config", str(unfinished / "config.yaml"), "--resume"]) == 0


def test_a_run_whose_data_moved_is_resumed(unfinished: Path, folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "moved")
    moved = ["--dataset", f"folder:{tmp_path}/moved/"]
    assert main(["--config", str(unfinished / "config.yaml"), "--resume", *moved]) == 0


def test_a_teacher_and_its_cache_are_valid_for_the_same_data_at_another_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, tmp_path / "teacher")) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(folder)
    teacher_options = [
        "--method", "kd", "--teacher-checkpoint", "~/teacher/checkpoint.pt", "--views", "1", "--teacher-cache", "~/cache"
    ]  # fmt: skip
    for number, path in enumerate((folder, f"{folder}/", "data", "./link", "~/data")):
        assert main(arguments(path, tmp_path / f"run-{number}", *teacher_options)) == 0, capsys.readouterr().err
    as_imagenet = [*arguments(folder, tmp_path / "imagenet", *teacher_options), "--dataset", "imagenet", "--data", "~/data"]
    assert main(as_imagenet) == 0


def test_a_teacher_of_other_classes_is_refused_and_the_classes_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, tmp_path / "teacher")) == 0
    for part in ("train", "val"):
        (folder / part / "cat").rename(folder / part / "dog")
    teacher_options = ["--method", "kd", "--teacher-checkpoint", str(tmp_path / "teacher" / "checkpoint.pt")]
    assert main(arguments(folder, tmp_path / "run", *teacher_options)) == 2
    assert "3 classes instead of 3, without cat and with dog" in capsys.readouterr().err


def test_a_tilde_stands_for_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {"data": "~/d", "teacher_checkpoint": "~/t.pt", "teacher_cache": "~/c", "output": "~/o"}
    config = Config(method="kd", views=1, **{name: Path(path) for name, path in paths.items()})
    expanded = {name: str(getattr(config, name)) for name in paths}
    assert expanded == {name: path.replace("~", str(tmp_path)) for name, path in paths.items()}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"method": "ce", "output": "~/run", "epochs": 1}))
    monkeypatch.setattr("training.data.digits100.PAIRS", {"train": 80, "validation": 20, "test": 20})
    assert main(["--config=~/settings.yaml", "--student", "cnn_tiny"]) == 0
    assert (tmp_path / "run" / "result.json").exists()


def test_the_home_folder_of_an_unknown_user_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--method", "ce", "--output", "~nobody-of-this-name/run"]) == 2
    assert "output must be a path, got ~nobody-of-this-name/run" in capsys.readouterr().err


def test_a_run_first_prints_classes_image_counts_and_what_was_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        (folder / "train" / "ant" / f"{number}.svg").touch()
    (folder / "val" / ".ipynb_checkpoints").mkdir()
    assert main(arguments(folder, tmp_path / "run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "3 classes: ant, bee, cat",
        "train: 20 images of 3 classes",
        lines[2],
        "test: 12 images of 3 classes",
        f"left out in {folder / 'train'}: 12 .svg",
        f"left out in {folder / 'val'}: 1 hidden (a dot in front)",
    ]
    assert lines[2].startswith("validation: 4 images of ")


BROKEN = "cr\udce8me [x] :cat:.png"
"""A file name in Latin-1, with characters that could be taken for markup and emoji."""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("accumulate", ["1", "7"])
def test_broken_images_of_every_split_are_left_out_named_and_counted(
    accumulate: str, encoding: str, folder: Path, tmp_path: Path
) -> None:
    for part in ("train", "val"):
        for name in CLASSES:
            (folder / part / name / BROKEN).write_bytes(b"no image")
    (folder / "train" / "ant" / "float.tif").write_bytes(b"")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / "train" / "ant" / "float.tif")
    command = [sys.executable, "-m", "training.train", *arguments(folder, tmp_path / "run", "--accumulate", accumulate)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [*command, "--held-out", "0.5", "--batch-size", "7"], env=environment, capture_output=True, timeout=300
    )
    printed = done.stdout.decode(encoding)
    assert done.returncode == 0, done.stderr
    assert f"{folder}/val/ant/cr\\xe8me [x] :cat:.png: UnidentifiedImageError" in printed
    assert "7 images could not be read and were left out" in printed
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        assert record["test_skipped"] == 3
        assert record["skipped"] + record["validation_skipped"] == 4


def test_data_and_output_folders_may_have_unusual_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "café [x] :cat:"
    folder.rename(odd)
    (odd / "train" / "bee").rename(odd / "train" / "b\udce9e")
    (odd / "val" / "bee").rename(odd / "val" / "b\udce9e")
    output = tmp_path / "run é [x] :cat:"
    assert main(arguments(odd, output)) == 0
    teacher_options = ["--method", "kd", "--teacher-checkpoint", str(output / "checkpoint.pt")]
    assert main(arguments(odd, tmp_path / "student", *teacher_options)) == 0
    capsys.readouterr()
    assert main(["--config", str(output / "config.yaml"), "--resume"]) == 0
    assert "run é [x] :cat: is already finished" in capsys.readouterr().out


def test_a_setting_that_is_not_valid_utf8_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "caf\udce9"
    folder.rename(odd)
    assert main(arguments(odd, tmp_path / "run")) == 2
    assert "dataset must be valid UTF-8" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(odd)
    assert main(arguments(tmp_path / "link", tmp_path / "run")) == 0
