"""The training command: its arguments, the files of a run, errors of checkpoints, and a small demo."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import training.loop.teacher
from training import demo
from training.compare.__main__ import main as compare
from training.config import GROUPS, Config
from training.data import digits100
from training.methods import METHODS
from training.models import MODELS, make_model
from training.presets import PRESETS
from training.storage import checkpoint
from training.train import configure, main


@pytest.fixture(autouse=True, scope="module")
def few_pairs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits100, "PAIRS", {"train": 200, "validation": 60, "test": 60})
        yield


def train(output: Path, *arguments: str) -> int:
    return main(["--student", "cnn_small", "--epochs", "1", "--output", str(output), *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher's run."""
    folder = tmp_path_factory.mktemp("trained") / "teacher"
    assert train(folder, "--method", "ce") == 0
    return folder


@pytest.fixture
def teacher(trained: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may change, among the other files of its run."""
    return shutil.copytree(trained, tmp_path / "teacher") / "checkpoint.pt"


@pytest.fixture(scope="module")
def plain(trained: Path) -> dict[str, torch.Tensor]:
    """The weights of a student that was trained by bickd without further options."""
    folder = trained.with_name("plain")
    assert train(folder, "--method", "bickd", "--teacher-checkpoint", str(trained / "checkpoint.pt")) == 0
    return weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["state"]


SMALL = {
    "crd": ["--settings.negatives", "32"],
    "sskd": ["--settings.head_epochs", "1"],
}
"""Settings that make a method's first stage and negatives small enough for a test."""


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_trains_on_mixed_images_or_refuses_them_by_name(
    method: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher_options = ["--teacher-checkpoint", str(teacher)] if METHODS[method].needs_teacher else []
    status = train(
        tmp_path / "student", "--method", method, *teacher_options, *SMALL.get(method, []), "--mixup", "0.2", "--cutmix", "1"
    )
    assert status == (2 if method in ("crd", "dkd") else 0)
    errors = capsys.readouterr().err
    if status:
        assert f"mixup and cutmix must be 0, got 0.2 and 1.0, for method '{method}', which needs one class" in errors


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_command_trains_every_method(
    method: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    teacher_options = ["--teacher-checkpoint", str(teacher)] if METHODS[method].needs_teacher else []
    assert train(tmp_path / "student", "--method", method, *teacher_options, *SMALL.get(method, [])) == 0
    printed = capsys.readouterr().out
    if teacher_options:
        assert printed.index("teacher cnn_small: test accuracy") < printed.index(f"{method} cnn_small seed 0: epoch 1/1")
    records = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1]
    assert "ce" in records[0]["terms"]
    names = {path.name for path in (tmp_path / "student").iterdir()}
    assert names == {
        "config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoint.pt", "best.pt", "curves.png",
        "result.json", "student.safetensors",
    }  # fmt: skip
    assert json.loads((tmp_path / "student" / "environment.json").read_text())["torch"] == torch.__version__


def test_the_saved_accuracy_is_that_of_the_saved_weights_on_the_test_split(teacher: Path) -> None:
    splits = digits100.load_digits100(Path())
    trained = checkpoint.load(teacher, dataset="digits100")
    test = splits.test.load(torch.arange(len(splits.test)))
    right = (trained.model.eval()(test.images).argmax(1) == test.labels).double().mean().item()
    # The same count, divided in float64.
    assert trained.test_accuracy == pytest.approx(100 * right, rel=1e-12)
    record = json.loads((teacher.parent / "metrics.jsonl").read_text().splitlines()[-1])
    result = json.loads((teacher.parent / "result.json").read_text())
    assert record["test_accuracy"] == result["test_accuracy"] == trained.test_accuracy


def test_tensorboard_has_every_term_of_every_epoch(teacher: Path, tmp_path: Path) -> None:
    train(tmp_path / "student", "--method", "kd", "--teacher-checkpoint", str(teacher), "--epochs", "2")
    events = EventAccumulator(str(tmp_path / "student" / "tensorboard"))
    events.Reload()
    assert {"term/ce", "term/kd", "loss", "test_accuracy", "learning_rate"} <= set(events.Tags()["scalars"])
    records = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    kept = [(event.step, event.value) for event in events.Scalars("term/kd")]
    assert kept == [(record["epoch"], pytest.approx(record["terms"]["kd"])) for record in records]


@pytest.mark.parametrize("method", ["kd", "rkd"])
def test_cached_output_of_the_teacher_gives_the_same_run_as_its_live_output(
    method: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher_options = ["--method", method, "--teacher-checkpoint", str(teacher), "--epochs", "2"]
    cached = [*teacher_options, "--views", "1", "--teacher-cache", str(tmp_path / "cache")]
    train(tmp_path / "cached", *cached)
    asked: list[int] = []
    run = training.loop.teacher.run

    def noted(*arguments: Any, **settings: Any) -> Any:
        asked.append(1)
        return run(*arguments, **settings)

    monkeypatch.setattr("training.loop.teacher.run", noted)
    train(tmp_path / "again", *cached)
    assert not asked
    train(tmp_path / "live", *teacher_options, "--views", "1")
    assert len(asked) == 2 * 3
    train(tmp_path / "new views", *teacher_options)
    terms = {
        name: [json.loads(line)["terms"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("cached", "again", "live", "new views")
    }
    assert terms["cached"] == terms["again"] == terms["live"]
    # Without ``--views`` the second epoch has new views.
    assert terms["new views"][0] == terms["live"][0]
    assert terms["new views"][1] != terms["live"][1]
    states = [weights(tmp_path / name) for name in ("cached", "again")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_cache_of_another_teacher_is_refused(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "other", "--method", "ce", "--seed", "5")
    for name, status in (("teacher", 0), ("other", 2)):
        arguments = [
            "--teacher-checkpoint",
            str(tmp_path / name / "checkpoint.pt"),
            "--teacher-cache",
            str(tmp_path / "cache"),
            "--views",
            "1",
        ]
        assert train(tmp_path / f"under-{name}", "--method", "kd", *arguments) == status
    assert "was made with other settings: teacher" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--precision", "bf16", "--channels-last"],
        ["--precision", "fp16", "--label-smoothing", "0.1"],
        ["--accumulate", "4", "--ema-decay", "0.9", "--warmup-epochs", "1", "--epochs", "2"],
        ["--schedule", "step", "--milestones", "[1]", "--epochs", "2", "--held-out", "0"],
        ["--logit-standardization"],
        ["--optimizer", "adamw", "--decay-norms-and-biases", "false", "--clip-norm", "1", "--warmup-steps", "2"],
        ["--augmentation", "imagenet", "--auto-augment", "randaugment", "--random-erasing", "0.25"],
        ["--augmentation", "cifar", "--auto-augment", "trivialaugment", "--mixup", "0.2", "--cutmix", "1"],
        ["--mixup", "0.2", "--logit-standardization"],
    ],
    ids=" ".join,
)
def test_options_of_the_recipe_and_of_its_execution_reach_the_run(
    options: list[str], teacher: Path, plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    output = tmp_path / "student"
    assert train(output, "--method", "bickd", "--teacher-checkpoint", str(teacher), *options) == 0
    given = (option.strip().partition(" ") for option in " ".join(options).split("--")[1:])
    expected = {name.replace("-", "_"): yaml.safe_load(value or "true") for name, _, value in given}
    assert expected.items() <= yaml.safe_load((output / "config.yaml").read_text()).items()
    assert any(not torch.equal(value, plain[name]) for name, value in weights(output).items())


def test_a_loss_that_is_not_finite_ends_the_command_and_names_the_last_good_checkpoint(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--method",
        "kd",
        "--teacher-checkpoint",
        str(teacher),
        "--learning-rate",
        "1e30",
        "--checkpoint-minutes",
        "0",
    ]
    assert train(tmp_path / "student", *arguments) == 3
    error = capsys.readouterr().err
    assert "in epoch 1, step 2: ce = nan" in error
    assert f"last good checkpoint: {tmp_path / 'student' / 'last.pt'}" in error
    assert not (tmp_path / "student" / "result.json").exists()


def test_a_bare_state_dict_is_a_teacher_if_its_model_is_named(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare.pt"
    torch.save(torch.load(teacher, weights_only=True)["state"], bare)
    teacher_options = ["--method", "kd", "--teacher-checkpoint", str(bare)]
    assert train(tmp_path / "unnamed", *teacher_options) == 2
    assert "teacher must name the model" in capsys.readouterr().err
    assert train(tmp_path / "named", *teacher_options, "--teacher", "cnn_small") == 0


def test_two_runs_of_one_seed_end_with_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(tmp_path / name, "--method", "ce", "--seed", "4")
    states = [weights(tmp_path / name) for name in ("a", "b")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_written_configuration_repeats_the_run_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    train(tmp_path / "first", "--method", "ce", "--batch_size", "50", "--warmup_epochs", "0")
    written = tmp_path / "first" / "config.yaml"
    assert main(["--config", str(written), "--output", str(tmp_path / "second"), "--seed", "9"]) == 0
    settings = yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())
    assert (settings["batch_size"], settings["method"], settings["seed"]) == (50, "ce", 9)


TEACHER_OPTIONS = ["--teacher-checkpoint", "x.pt"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "magic"], "method must be one of bickd, ce, crd, dist, dkd, kd, rkd, sskd, got 'magic'"),
        (["--dataset", "mnist"], "dataset must be one of"),
        (["--student", "vit"], "student must be one of"),
        (["--method", "kd"], "teacher_checkpoint must be given"),
        (["--method", "ce", "--teacher-checkpoint", "x.pt"], "teacher_checkpoint must be left out"),
        (["--method", "ce", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--method", "ce", "--learning_rate", "-1"], "learning_rate must be positive and finite, got -1.0"),
        (["--method", "ce", "--learning_rate", ".inf"], "learning_rate must be positive and finite, got inf"),
        (["--method", "ce", "--weight_decay", ".inf"], "weight_decay must be finite and not negative, got inf"),
        (["--method", "ce", "--seed", "-1"], "seed must be in [0, 2^32), got -1"),
        (["--method", "ce", "--seed", "4294967296"], "seed must be in [0, 2^32), got 4294967296"),
        (["--method", "ce", "--teacher", "cnn_large"], "teacher must be left out for method 'ce'"),
        (["--method", "kd", "--teacher", "vit"], "teacher must be one of cnn_large, cnn_small, cnn_tiny"),
        (["--method", "ce", "--settings.kd_weight", "1"], "settings of method 'ce' must be of ce_weight, got 'kd_weight'"),
        (["--method", "kd", "--settings.kd_weight", "-1"], "kd_weight must be finite and not negative, got -1"),
        (["--method", "ce", "--logit-standardization"], "logit_standardization must be left out for method 'ce'"),
        (["--method", "ce", "--teacher-cache", "x"], "teacher_cache must be left out for method 'ce'"),
        (["--method", "sskd", "--teacher-checkpoint", "x.pt", "--teacher-cache", "x"], "teacher_cache must be left out"),
        ([*TEACHER_OPTIONS, "--teacher-cache", "x"], "views must be given with teacher_cache"),
        (["--method", "ce", "--views", "0"], "views must be at least 1, got 0"),
        (["--method", "ce", "--milestones", "[3]"], "milestones must be given for schedule 'step' and only for it"),
        (["--method", "ce", "--schedule", "step"], "milestones must be given for schedule 'step' and only for it"),
        (
            ["--method", "ce", "--schedule", "step", "--milestones", "[3, 2]"],
            "milestones must be positive and strictly increasing",
        ),
        (["--method", "ce", "--schedule", "line"], "schedule must be one of cosine, step, got 'line'"),
        (["--method", "ce", "--epochs", "1", "--warmup-epochs", "1"], "warmup_epochs must be in [0, epochs), got 1 of 1"),
        (["--method", "ce", "--optimizer", "lamb"], "optimizer must be one of sgd, adamw, got 'lamb'"),
        (["--method", "ce", "--clip-norm", "0"], "clip_norm must be positive and finite, got 0"),
        (["--method", "ce", "--clip-norm", ".inf"], "clip_norm must be positive and finite, got inf"),
        (["--method", "ce", "--warmup-steps", "-1"], "warmup_steps must not be negative, got -1"),
        (
            ["--method", "ce", "--warmup-steps", "3", "--warmup-epochs", "1"],
            "warmup_steps must be left out with warmup_epochs 1, got 3",
        ),
        (["--method", "ce", "--new-classifier"], "new_classifier must be left out without student_checkpoint"),
        (["--method", "ce", "--student-checkpoint", "nowhere.pt"], "student_checkpoint must be a file, got nowhere.pt"),
        (
            ["--method", "ce", "--evaluate", "x.pt", "--split", "all"],
            "split must be one of train, validation, test, got 'all'",
        ),
        (["--method", "ce", "--preset=mnist"], "preset must be one of cifar, imagenet, imagenet-a3, got 'mnist'"),
        (["--method", "ce", "--accumulate", "3"], "accumulate must divide batch_size 64, got 3"),
        (["--method", "ce", "--ema-decay", "1"], "ema_decay must be in [0, 1), got 1"),
        (["--method", "ce", "--label-smoothing", "1"], "label_smoothing must be in [0, 1), got 1"),
        (["--method", "ce", "--precision", "int8"], "precision must be one of float32, bf16, fp16, got 'int8'"),
        (["--method", "ce", "--held-out", "1"], "held_out must be in [0, 1), got 1"),
        (["--method", "ce", "--augmentation", "mnist"], "augmentation must be one of none, cifar, imagenet, got 'mnist'"),
        (["--method", "ce", "--auto-augment", "x"], "auto_augment must be one of randaugment, trivialaugment, got 'x'"),
        (["--method", "ce", "--random-erasing", "2"], "random_erasing must be in [0, 1], got 2.0"),
        (["--method", "ce", "--mixup", "-1"], "mixup must be finite and not negative, got -1.0"),
        (["--method", "ce", "--cutmix", ".nan"], "cutmix must be finite and not negative, got nan"),
        (["--method", "ce", "--train-per-class", "0"], "train_per_class must be at least 1, got 0"),
        (
            ["--method", "ce", "--image-column", "x"],
            "image_column and label_column must be left out for dataset 'digits100'",
        ),
        (
            [*TEACHER_OPTIONS, "--method", "kd", "--mixup", "1", "--views", "1", "--teacher-cache", "x"],
            "must be 0, got 1.0 and 0.0, with teacher_cache",
        ),
        (
            [*TEACHER_OPTIONS, "--cutmix", "1", "--settings.positives", "label"],
            "got 0.0 and 1.0, with settings.positives 'label'",
        ),
        (["--method", "ce", "--workers", "-1"], "workers must not be negative, got -1"),
        (["--method", "ce", "--device", "tpu"], "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["--method", "ce", "--device", "cuda:9"], "device must exist, got 'cuda:9'"),
        (["--method", "ce", "--preset", "mnist"], "preset must be one of cifar, imagenet, imagenet-a3, got 'mnist'"),
        (["--dataset", "imagenet", "--method", "ce", "--data", "nowhere"], "nowhere"),
        (["--method", "kd", "--teacher-checkpoint", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([*arguments, "--output", str(tmp_path / "run")])
    assert status == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "spelling", [["--preset", "cifar"], ["--preset=cifar"], ["--config", "{preset}"], ["--config={preset}"]]
)
def test_every_other_option_overrides_a_preset(spelling: list[str], tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text("preset: cifar\nbatch_size: 96\n")
    given = [each.format(preset=tmp_path / "preset.yaml") for each in spelling]
    teacher_options = ["--teacher-checkpoint", "x.pt"]
    in_file = "--config" in spelling[0]
    config = configure([*teacher_options, *given, "--epochs", "7", "--milestones", "2", "4"])
    assert (config.dataset, config.epochs, config.milestones) == ("cifar100", 7, (2, 4))
    assert config.batch_size == (96 if in_file else 64)
    assert configure(["--epochs", "7", "--milestones=2,4", *teacher_options, *given]) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_settings_for_bickd_that_options_override(name: str) -> None:
    config = configure(["--preset", name, "--teacher-checkpoint", "x.pt"])
    assert config.method == "bickd"
    assert config.settings == PRESETS[name].settings["bickd"] != {}
    own = configure(["--preset", name, "--teacher-checkpoint", "x.pt", "--settings.kd-weight", "3"])
    assert own.settings == {**config.settings, "kd_weight": 3}


def test_the_a3_preset_has_fewer_epochs_smaller_images_and_adamw() -> None:
    config = configure(["--preset", "imagenet-a3", "--teacher", "resnet34"], "imagenet")
    assert (config.epochs, config.image_size, config.optimizer, config.schedule) == (100, 160, "adamw", "cosine")
    assert config.milestones == ()
    assert not config.decay_norms_and_biases
    assert (config.mixup, config.cutmix, config.auto_augment) == (0.1, 1.0, "randaugment")


def test_the_help_lists_presets_and_has_every_option_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (main, compare):
        with pytest.raises(SystemExit):
            command(["--help"])
        lines = capsys.readouterr().out.splitlines()
        titles = [f"{title}:" for title in GROUPS if command is main or not title.startswith("evaluation")]
        assert [line for line in lines if line in [*titles, "others:"]] == titles
        assert ("--preset" in " ".join(lines)) == (command is main)
        assert ("imagenet-a3" in " ".join(lines)) == (command is main)


def test_a_truncated_checkpoint_is_refused(teacher: Path) -> None:
    teacher.write_bytes(teacher.read_bytes()[: teacher.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(teacher, dataset="digits100")


def test_a_teacher_of_another_data_set_is_refused(teacher: Path) -> None:
    with pytest.raises(ValueError, match="digits100"):
        checkpoint.load(teacher, dataset="cifar100")
    names = tuple(f"class {number}" for number in range(100))
    with pytest.raises(
        ValueError, match=r"was trained on 'digits100', the data set is 'cifar100': .* with class 0, class 1,"
    ):
        checkpoint.load(teacher, dataset="cifar100", class_names=names)


def test_a_teacher_of_the_same_classes_in_another_order_is_refused(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(teacher, weights_only=True)
    content["class_names"][3:5] = reversed(content["class_names"][3:5])
    torch.save(content, teacher)
    assert train(tmp_path / "student", "--method", "kd", "--teacher-checkpoint", str(teacher)) == 2
    assert "classes in another order: class 3 was '0+4' and is '0+3'" in capsys.readouterr().err


def test_a_teacher_saved_by_an_older_version_is_compared_by_its_data_set(teacher: Path) -> None:
    content = torch.load(teacher, weights_only=True)
    for entry in ("class_names", "weights", "trained_state"):
        del content[entry]
    torch.save(content, teacher)
    names = digits100.load_digits100(Path()).identity.class_names
    assert checkpoint.load(teacher, dataset="digits100", class_names=names).classes == 100
    with pytest.raises(ValueError, match="was trained on 'digits100', the data set is 'folder:x'"):
        checkpoint.load(teacher, dataset="folder:x", class_names=names)
    torch.save({**content, "dataset": "folder:/elsewhere/x"}, teacher)
    assert checkpoint.load(teacher, dataset="folder:x", class_names=names).classes == 100


def test_a_teacher_that_is_another_model_is_refused(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--method", "kd", "--teacher-checkpoint", str(teacher), "--teacher"]
    assert train(tmp_path / "wrong", *arguments, "cnn_large") == 2
    assert "holds 'cnn_small', teacher is 'cnn_large'" in capsys.readouterr().err
    assert train(tmp_path / "right", *arguments, "cnn_small") == 0


def test_the_torchvision_prefix_names_the_same_model(tmp_path: Path) -> None:
    origin = checkpoint.Origin("resnet18", "imagenet", 3, 4, (), 1.0)
    checkpoint.save(tmp_path / "file.pt", make_model("resnet18", 3, 4), origin)
    assert checkpoint.load(tmp_path / "file.pt", dataset="imagenet", name="torchvision:resnet18").name == "resnet18"
    with pytest.raises(ValueError, match="holds 'resnet18', teacher is 'resnet20'"):
        checkpoint.load(tmp_path / "file.pt", dataset="imagenet", name="resnet20")


def test_a_teacher_with_another_number_of_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ten.pt"
    ten = checkpoint.Origin("cnn_small", "digits100", channels=1, classes=10, class_names=(), test_accuracy=1.0)
    checkpoint.save(path, MODELS["cnn_small"](1, 10), ten)
    assert train(tmp_path / "student", "--method", "kd", "--teacher-checkpoint", str(path)) == 2
    assert "has 10 classes, digits100 has 100" in capsys.readouterr().err


def test_a_checkpoint_with_a_missing_field_is_refused(teacher: Path) -> None:
    content = torch.load(teacher, weights_only=True)
    del content["classes"]
    torch.save(content, teacher)
    with pytest.raises(ValueError, match="not a checkpoint of this version"):
        checkpoint.load(teacher, dataset="digits100")


def test_the_command_prints_its_configuration_without_training(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "training.train", "--method", "ce", "--epochs", "3", "--print-config"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    settings = yaml.safe_load(printed)
    assert (settings["method"], settings["epochs"]) == ("ce", 3)
    assert not list(tmp_path.iterdir())


def test_a_teacher_that_lost_its_accuracy_stops_the_run(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(teacher, weights_only=True)
    content["test_accuracy"] += 10
    torch.save(content, teacher)
    assert train(tmp_path / "student", "--method", "kd", "--teacher-checkpoint", str(teacher)) == 2
    assert "the data is not the same" in capsys.readouterr().err


def test_the_demo_writes_table_curves_and_heat_maps(tmp_path: Path) -> None:
    demo.main(tmp_path / "demo", seeds=(0, 1), teacher_epochs=1, student_epochs=2)
    table = (tmp_path / "demo" / "results.md").read_text()
    assert "| dist |" in table
    assert "| bickd |" in table
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert {method: len(runs) for method, runs in results["students"].items()} == {"ce": 2, "kd": 2, "dist": 2, "bickd": 2}
    for picture in ("curves.png", "similarity.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")


def test_a_configuration_is_checked_when_it_is_constructed() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        Config(method="ce", momentum=1.0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": 60, "milestones": (150, 180)}, ["milestones 150, 180 come after the 60 epochs: .* ends at 0.5"]),
        ({"epochs": 160, "milestones": (150, 180)}, ["milestones 180 come after the 160 epochs: .* ends at 0.05"]),
        ({"epochs": 60, "milestones": (60,)}, ["milestones 60 come after the 60 epochs: .* ends at 0.5"]),
        ({"epochs": 90, "milestones": (30, 60, 90)}, []),
        ({"epochs": 30, "method": "dkd"}, ["dkd has its full weight only from epoch 20 on, and the training has 30"]),
        ({"epochs": 40, "method": "dkd"}, []),
        ({"epochs": 1, "method": "dkd", "settings": {"warmup_epochs": 1}}, []),
        ({"epochs": 30, "method": "dkd", "settings": {"warmup_epochs": 15}}, []),
    ],
)  # fmt: skip
def test_too_few_epochs_for_milestones_or_a_method_s_warm_up_are_told(settings: dict[str, Any], told: list[str]) -> None:
    taught = {"teacher_checkpoint": Path("teacher.pt")} if settings.get("method") else {"method": "ce"}
    schedule = "step" if "milestones" in settings else "cosine"
    found = Config(**{**taught, "learning_rate": 0.5, "schedule": schedule, **settings}).too_short
    assert len(found) == len(told)
    assert all(re.search(pattern, each) for pattern, each in zip(told, found, strict=True))


def test_a_run_warns_of_a_learning_rate_that_never_falls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", "--method", "ce", "--schedule", "step", "--milestones", "150") == 0
    assert "WARNING: milestones 150 come after the 1 epochs" in capsys.readouterr().out
