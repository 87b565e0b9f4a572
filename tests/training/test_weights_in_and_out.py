"""Weights in and out of a run: teachers, initial weights of students, evaluated checkpoints and exported students."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from class_images import write_class_images
from safetensors.torch import load_file, save_file
from stopped_runs import stop_after_save
from torchvision import models

from training import evaluate
from training.data import digits100, load_splits
from training.models import make_model
from training.storage import checkpoint, files
from training.train import main

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40), "white": (220, 220, 220)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one noisy colour each, in a folder for each colour."""
    return write_class_images(tmp_path_factory.mktemp("colours"), COLOURS, {"train": 16, "val": 10}, (16, 16))


def train(folder: Path, output: Path, *arguments: str) -> int:
    return main(
        [
            "--dataset", f"folder:{folder}", "--image-size", "16", "--batch-size", "16", "--held-out", "0.1",
            "--student", "cnn_small", "--epochs", "1", "--output", str(output), *arguments,
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def teacher(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has learned the colours."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    assert train(folder, output, "--method", "ce", "--epochs", "8", "--ema-decay", "0.9") == 0
    return output


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return files.read(run / "checkpoint.pt")["state"]


def test_a_run_saves_the_average_and_the_trained_weights_and_says_which_is_which(teacher: Path) -> None:
    for name in ("checkpoint.pt", "best.pt"):
        content = files.read(teacher / name)
        assert content["weights"] == "the moving average of the weights"
        assert content["trained_state"].keys() == content["state"].keys()
        assert not torch.equal(content["trained_state"]["classifier.weight"], content["state"]["classifier.weight"])
        assert content["class_names"] == list(COLOURS)


def test_the_exported_student_has_the_weights_that_were_measured_and_their_class_names(teacher: Path) -> None:
    exported = load_file(teacher / "student.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in state_of(teacher).items())
    with safetensors.safe_open(teacher / "student.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["class_names"]) == list(COLOURS)
    assert (metadata["model"], metadata["weights"]) == ("cnn_small", "the moving average of the weights")
    origins = [checkpoint.read(teacher / name).origin for name in ("checkpoint.pt", "student.safetensors")]
    assert origins[0] == origins[1]
    assert float(metadata["test_accuracy"]) == files.read(teacher / "checkpoint.pt")["test_accuracy"]


def test_an_exported_torchvision_student_loads_in_torchvision(folder: Path, tmp_path: Path) -> None:
    options = ["--method", "ce", "--student", "squeezenet1_1", "--image-size", "32", "--channels-last"]
    assert train(folder, tmp_path / "run", *options) == 0
    model = models.squeezenet1_1(num_classes=4)
    model.load_state_dict(load_file(tmp_path / "run" / "student.safetensors"))
    splits = load_splits(f"folder:{folder}", Path(), image_size=32)
    images, labels, *_ = splits.test.load(torch.arange(len(splits.test)))
    with torch.no_grad():
        right = (model.eval()(images).argmax(1) == labels).double().mean().item()
    # The same count, divided in float64.
    assert 100 * right == pytest.approx(files.read(tmp_path / "run" / "checkpoint.pt")["test_accuracy"], rel=1e-12)


WRITERS: dict[str, Callable[[dict[str, torch.Tensor], Path], Any]] = {
    "weights.pt": torch.save,
    "weights.safetensors": save_file,
    "wrapped.pth": lambda state, path: torch.save(
        {"epoch": 9, "model": {f"module._orig_mod.{name}": value for name, value in state.items()}}, path
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_teacher_from_elsewhere_reaches_its_accuracy(
    name: str, teacher: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    WRITERS[name](state_of(teacher), tmp_path / name)
    teacher_options = ["--method", "kd", "--teacher", "cnn_small", "--teacher-checkpoint", str(tmp_path / name)]
    assert train(folder, tmp_path / "run", *teacher_options) == 0
    printed = capsys.readouterr().out
    accuracy = files.read(teacher / "checkpoint.pt")["test_accuracy"]
    assert accuracy > 70
    assert f"teacher cnn_small: test accuracy {accuracy:.2f} %" in printed
    assert "WARNING" not in printed


def reordered(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run with its classes in another order."""
    state = state_of(run)
    order = [1, 2, 3, 0]
    return {name: value[order] if name.startswith("classifier.") else value for name, value in state.items()}


def test_a_teacher_with_classes_in_another_order_is_reported_with_the_likely_cause(
    teacher: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(reordered(teacher), tmp_path / "weights.pt")
    teacher_options = ["--method", "kd", "--teacher", "cnn_small", "--teacher-checkpoint", str(tmp_path / "weights.pt")]
    assert train(folder, tmp_path / "run", *teacher_options) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "WARNING: teacher cnn_small is near chance" in printed
    assert "on 40 images of 4 classes, where chance is 25.00 %" in printed
    assert json.loads((tmp_path / "run" / "result.json").read_text())["teacher_near_chance"]
    assert "its classes are in another order than those of the data, which begin with blue, green, red" in printed


def test_a_teacher_that_names_its_classes_in_another_order_is_refused(
    teacher: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [list(COLOURS)[number] for number in (1, 2, 3, 0)]
    weights = tmp_path / "weights.safetensors"
    save_file(reordered(teacher), weights, {"class_names": json.dumps(names)})
    teacher_options = ["--method", "kd", "--teacher", "cnn_small", "--teacher-checkpoint", str(weights)]
    assert train(folder, tmp_path / "run", *teacher_options) == 2
    assert "classes in another order: class 0 was 'green' and is 'blue'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spelling", ["{}/", "{}/../{name}", "{}/."])
def test_a_teacher_is_compared_by_its_classes_and_not_by_the_path_of_the_data(
    spelling: str, teacher: Path, folder: Path, tmp_path: Path
) -> None:
    data = ["--dataset", "folder:" + spelling.format(folder, name=folder.name)]
    teacher_options = ["--method", "kd", "--teacher-checkpoint", str(teacher / "checkpoint.pt")]
    assert train(folder, tmp_path / "run", *teacher_options, *data) == 0


def test_a_teacher_may_see_images_of_another_size_than_it_was_trained_on(
    teacher: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = files.read(teacher / "checkpoint.pt")
    # Of 40 images, another precision may change the predictions of two, and not of four.
    torch.save({**content, "test_accuracy": content["test_accuracy"] - 10}, tmp_path / "teacher.pt")
    teacher_options = ["--method", "kd", "--teacher-checkpoint", str(tmp_path / "teacher.pt")]
    assert train(folder, tmp_path / "same", *teacher_options) == 2
    assert "the data is not the same" in capsys.readouterr().err
    assert train(folder, tmp_path / "other", *teacher_options, "--image-size", "20") == 0
    assert "with image_size 16 when it was saved, image_size is 20 now" in capsys.readouterr().out


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_network_with_a_fixed_input_size_ends_the_run_before_anything_is_written(
    role: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if role == "student":
        options = ["--method", "ce", "--student", "vit_b_32"]
    else:
        torch.save(make_model("vit_b_32", 3, 4).state_dict(), tmp_path / "weights.pt")
        options = ["--method", "kd", "--teacher", "vit_b_32", "--teacher-checkpoint", str(tmp_path / "weights.pt")]
    assert train(folder, tmp_path / "run", *options, "--image-size", "64") == 2
    errors = capsys.readouterr().err
    assert f"error: {role} vit_b_32 does not accept the images of folder:" in errors
    assert "3 x 64 x 64 with image_size 64" in errors
    assert not (tmp_path / "run").exists()


def test_a_student_starts_from_weights_and_gets_a_new_classifier_only_on_request(
    teacher: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_model("cnn_small", 3, 10).state_dict()
    state = {name: other[name] if name.startswith("classifier.") else value for name, value in state_of(teacher).items()}
    torch.save({"state_dict": state}, tmp_path / "weights.pt")
    start = ["--method", "ce", "--student-checkpoint", str(tmp_path / "weights.pt"), "--learning-rate", "1e-30"]
    assert train(folder, tmp_path / "refused", *start) == 2
    assert "its classifier 'classifier' has 10 classes, and 'classifier' of the model has 4; --new-classifier" in (
        capsys.readouterr().err
    )
    assert train(folder, tmp_path / "run", *start, "--new-classifier") == 0
    assert "classifier 'classifier' is left untrained" in capsys.readouterr().out
    for name, value in state_of(tmp_path / "run").items():
        if name.startswith("features") and "running" not in name and "tracked" not in name:
            assert torch.equal(value, state[name]), name


def test_a_resumed_student_no_longer_needs_its_initial_weights(
    teacher: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "weights.pt"
    torch.save(state_of(teacher), start)
    output = tmp_path / "run"
    arguments = ["--method", "ce", "--epochs", "2", "--ema-decay", "0.9", "--optimizer", "adamw", "--clip-norm", "1"]
    arguments += ["--student-checkpoint", str(start)]
    assert train(folder, tmp_path / "whole", *arguments) == 0
    with monkeypatch.context() as patch:
        stop_after_save(patch)
        assert train(folder, output, *arguments) == 2
    start.unlink()
    assert main(["--config", str(output / "config.yaml"), "--resume"]) == 0
    whole, resumed = (files.read(path / "checkpoint.pt") for path in (tmp_path / "whole", output))
    for entry in ("state", "trained_state"):
        assert all(torch.equal(resumed[entry][name], value) for name, value in whole[entry].items()), entry


MEASURED = re.compile(
    r"on (\d+) images of the (\w+) split of \S+: top-1 ([\d.]+) %, top-5 ([\d.]+) %, calibration error ([\d.]+) %"
)


def measured(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, ...]:
    capsys.readouterr()
    assert evaluate.main(arguments) == 0
    found = MEASURED.search(capsys.readouterr().out)
    assert found is not None
    return found.groups()


def test_a_checkpoint_is_measured_on_the_data_that_it_was_trained_on(
    teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, split, top1, top5, _ = measured([str(teacher / "checkpoint.pt")], capsys)
    assert (pictures, split, top5) == ("40", "test", "100.00")
    assert top1 == f"{files.read(teacher / 'checkpoint.pt')['test_accuracy']:.2f}"


def test_weights_from_elsewhere_are_measured_on_any_split(
    teacher: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(state_of(teacher), tmp_path / "weights.safetensors")
    options = ["--dataset", f"folder:{folder}", "--image-size", "16", "--held-out", "0.25", "--student", "cnn_small"]
    counts = {"train": "48", "validation": "16", "test": "40"}
    for split, count in counts.items():
        arguments = ["--evaluate", str(tmp_path / "weights.safetensors"), *options, "--split", split]
        assert measured(arguments, capsys)[:2] == (count, split)
    assert (
        main(["--evaluate", str(tmp_path / "weights.safetensors"), *options, "--held-out", "0", "--split", "validation"])
        == 2
    )
    assert "split must exist" in capsys.readouterr().err


def test_top5_and_calibration_error_match_their_definitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits100, "PAIRS", {"train": 50, "validation": 20, "test": 300})
    torch.manual_seed(0)
    model = make_model("cnn_tiny", 1, 100).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    test = digits100.load_digits100(Path()).test
    with torch.no_grad():
        probabilities = (model(test.load(torch.arange(300)).images)).softmax(1).double()
    confidence, prediction = probabilities.max(1)
    right = prediction == test.labels
    in_five = (probabilities.argsort(dim=1, descending=True)[:, :5] == test.labels[:, None]).any(1)
    error = 0.0
    for low in np.linspace(0, 1, 16)[:-1]:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = (confidence[inside].mean() - right[inside].double().mean()).abs()
            error += inside.double().mean().item() * gap.item()
    _, _, top1, top5, calibration = measured([str(tmp_path / "weights.pt"), "--student", "cnn_tiny"], capsys)
    # Half of the last printed digit; the calibration error is also a mean of float32 confidences, off by 1e-7 each.
    assert float(top1) == pytest.approx(100 * right.double().mean().item(), abs=0.005 + 1e-9)
    assert float(top5) == pytest.approx(100 * in_five.double().mean().item(), abs=0.005 + 1e-9)
    assert float(calibration) == pytest.approx(100 * error, abs=0.005 + 1e-4)


def test_a_checkpoint_for_other_classes_is_not_measured(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(teacher / "checkpoint.pt"), "--dataset", "digits100"]) == 2
    assert (
        "the data set is 'digits100': 100 classes instead of 4, without blue, green, red, white" in capsys.readouterr().err
    )
    assert evaluate.main(["nowhere.pt"]) == 2
    assert "evaluate must be a file, got nowhere.pt" in capsys.readouterr().err


def test_a_checkpoint_of_another_version_is_refused(teacher: Path, tmp_path: Path) -> None:
    content = files.read(teacher / "checkpoint.pt")
    torch.save({**content, "format": checkpoint.FORMAT + 1}, tmp_path / "newer.pt")
    with pytest.raises(ValueError, match="is not a checkpoint of this version"):
        checkpoint.read(tmp_path / "newer.pt")
