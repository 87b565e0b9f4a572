"""The command from arguments to the run's folder, checkpoints and their errors, the demo in small."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from training import checkpoint, demo
from training.config import Config
from training.data import DATASETS, Splits, digits100
from training.models import MODELS
from training.train import main


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits100, "PAIRS", {"train": 200, "validation": 60, "test": 60})


def train(output: Path, *arguments: str) -> int:
    return main(["--student", "cnn_small", "--epochs", "1", "--output", str(output), *arguments])


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    assert train(tmp_path / "teacher", "--method", "ce") == 0
    return tmp_path / "teacher" / "checkpoint.pt"


@pytest.mark.parametrize("method", ["kd", "bickd"])
def test_a_student_trains_under_a_teacher_trained_by_the_same_command(
    method: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "student", "--method", method, "--teacher_checkpoint", str(teacher)) == 0
    printed = capsys.readouterr().out
    assert printed.index("teacher cnn_small: test accuracy") < printed.index(f"{method} cnn_small seed 0: epoch 1/1")
    records = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1]
    assert "kd" in records[0]["terms"]
    assert json.loads((tmp_path / "student" / "environment.json").read_text())["torch"] == torch.__version__


def test_two_runs_of_one_seed_end_in_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(tmp_path / name, "--method", "ce", "--seed", "4")
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["state"] for name in ("a", "b")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_written_configuration_repeats_the_run_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    train(tmp_path / "first", "--method", "ce", "--batch_size", "50")
    written = tmp_path / "first" / "config.yaml"
    assert main(["--config", str(written), "--output", str(tmp_path / "second"), "--seed", "9"]) == 0
    settings = yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())
    assert (settings["batch_size"], settings["method"], settings["seed"]) == (50, "ce", 9)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "magic"], "method must be one of bickd, ce, kd, got 'magic'"),
        (["--dataset", "mnist"], "dataset must be one of"),
        (["--student", "vit"], "student must be one of"),
        (["--method", "kd"], "teacher_checkpoint must be given"),
        (["--method", "ce", "--teacher_checkpoint", "x.pt"], "teacher_checkpoint must be left out"),
        (["--method", "ce", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--method", "ce", "--learning_rate", "-1"], "learning_rate must be positive and finite, got -1.0"),
        (["--method", "ce", "--learning_rate", ".inf"], "learning_rate must be positive and finite, got inf"),
        (["--method", "ce", "--weight_decay", ".inf"], "weight_decay must be finite and not negative, got inf"),
        (["--method", "ce", "--seed", "-1"], "seed must be in [0, 2^32), got -1"),
        (["--method", "ce", "--seed", "4294967296"], "seed must be in [0, 2^32), got 4294967296"),
        (["--method", "ce", "--teacher", "cnn_large"], "teacher must be left out for method 'ce'"),
        (["--method", "kd", "--teacher", "vit"], "teacher must be one of cnn_large, cnn_small"),
        (["--method", "kd", "--teacher_checkpoint", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_got(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([*arguments, "--output", str(tmp_path / "run")])
    assert status == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_refused(teacher: Path) -> None:
    teacher.write_bytes(teacher.read_bytes()[: teacher.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(teacher, dataset="digits100")


def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        checkpoint.load(tmp_path / "bad.pt", dataset="digits100")
    assert not (tmp_path / "written").exists()


def test_a_teacher_of_another_data_set_is_refused(teacher: Path) -> None:
    with pytest.raises(ValueError, match="digits100"):
        checkpoint.load(teacher, dataset="cifar100")


def test_a_teacher_that_is_another_model_is_refused(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--method", "kd", "--teacher_checkpoint", str(teacher), "--teacher"]
    assert train(tmp_path / "wrong", *arguments, "cnn_large") == 2
    assert "holds 'cnn_small', teacher is 'cnn_large'" in capsys.readouterr().err
    assert train(tmp_path / "right", *arguments, "cnn_small") == 0


def test_a_teacher_with_other_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ten.pt"
    checkpoint.save(
        path, MODELS["cnn_small"](1, 10), name="cnn_small", dataset="digits100", channels=1, classes=10, test_accuracy=1.0
    )
    assert train(tmp_path / "student", "--method", "kd", "--teacher_checkpoint", str(path)) == 2
    assert "has 10 classes, digits100 has 100" in capsys.readouterr().err


def test_a_checkpoint_with_a_missing_field_is_refused(teacher: Path) -> None:
    content = torch.load(teacher, weights_only=True)
    del content["classes"]
    torch.save(content, teacher)
    with pytest.raises(ValueError, match="not a checkpoint of this version"):
        checkpoint.load(teacher, dataset="digits100")


def test_a_checkpoint_can_be_read_by_whom_the_umask_allows(teacher: Path) -> None:
    (teacher.parent / "plain").touch()
    assert teacher.stat().st_mode == (teacher.parent / "plain").stat().st_mode


def test_the_command_prints_its_configuration_without_training(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "training.train", "--method", "ce", "--epochs", "3", "--print_config"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    settings = yaml.safe_load(printed)
    assert (settings["method"], settings["epochs"]) == ("ce", 3)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_checkpoint_and_no_temporary_file(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = teacher.read_bytes()
    files = set(teacher.parent.iterdir())

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("training.checkpoint.os.fsync", fail)
    model = MODELS["cnn_small"](1, 100)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(teacher, model, name="cnn_small", dataset="digits100", channels=1, classes=100, test_accuracy=1.0)
    assert teacher.read_bytes() == before
    assert set(teacher.parent.iterdir()) == files


def test_a_teacher_that_lost_its_accuracy_stops_the_run(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other_labels(folder: Path) -> Splits:
        splits = digits100.load_digits100(folder)
        predicted = checkpoint.load(teacher, dataset="digits100").model.eval()(splits.test.images).argmax(1)
        return splits._replace(test=splits.test._replace(labels=predicted))

    monkeypatch.setitem(DATASETS, "digits100", other_labels)
    assert train(tmp_path / "student", "--method", "kd", "--teacher_checkpoint", str(teacher)) == 2
    assert "the data is not the same" in capsys.readouterr().err


def test_every_model_gives_logits_and_the_residual_networks_have_their_published_size() -> None:
    for name, make in MODELS.items():
        model = make(3, 100).eval()
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
        if name == "resnet20":
            assert sum(parameter.numel() for parameter in model.parameters()) == 278324
    with pytest.raises(ValueError, match="depth must be 6 n \\+ 2"):
        type(MODELS["resnet20"](3, 10))(3, 10, depth=21)


def test_the_demo_writes_table_curves_and_heat_maps(tmp_path: Path) -> None:
    demo.main(tmp_path / "demo", seeds=(0, 1), teacher_epochs=1, student_epochs=2)
    assert "| bickd |" in (tmp_path / "demo" / "results.md").read_text()
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert {method: len(runs) for method, runs in results["students"].items()} == {"ce": 2, "kd": 2, "bickd": 2}
    for picture in ("curves.png", "similarity.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")


def test_a_configuration_is_checked_where_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        Config(method="ce", momentum=1.0)
