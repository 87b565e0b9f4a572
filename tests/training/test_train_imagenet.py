"""The ImageNet trainer under torchrun: two processes on the CPU, JPEGs in folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from class_images import write_class_images

from training.models import make_model
from training.storage import checkpoint, files
from training.train import configure

ROOT = Path(__file__).parents[2]
COLOURS = {"n00000000": (200, 40, 40), "n00000001": (40, 200, 40), "n00000002": (40, 40, 200)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noisy colours, one truncated image among them, and a teacher."""
    root = tmp_path_factory.mktemp("imagenet")
    write_class_images(root, COLOURS, {"train": 17, "val": 6}, (40, 48), "jpg")
    broken = root / "train" / "n00000001" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    torch.manual_seed(0)
    teacher = make_model("resnet18", 3, 3)
    files.save(root / "teacher.pt", teacher.state_dict())
    return root


def torchrun(folder: Path, output: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(ROOT / "training" / "train_imagenet.py"), "--data", str(folder), "--student", "resnet18", "--image-size", "32",
        "--batch-size", "16", "--workers", "0", "--epochs", "2", "--milestones", "[1]", "--learning-rate", "0.02",
        "--held-out", "0", "--output", str(output), *arguments,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=output.parent, env={**environment, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, timeout=300
    )


def test_two_processes_train_a_student_and_leave_out_a_broken_image(folder: Path, tmp_path: Path) -> None:
    teacher = ["--teacher", "resnet18", "--teacher-checkpoint", str(folder / "teacher.pt")]
    done = torchrun(folder, tmp_path / "run", "--method", "bickd", *teacher)
    assert done.returncode == 0, done.stderr
    assert "effective batch size 16 = 2 processes x 1 micro-batches x 8, learning rate 0.02" in done.stdout
    assert done.stdout.count("test accuracy") == done.stdout.count("teacher resnet18: test accuracy") + 1
    assert "n00000001/3.jpg" in done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert all({"ce", "kd", "class_wise", "sample_wise"} == set(record["terms"]) for record in records)
    assert sum(record["skipped"] for record in records) >= 1
    trained = checkpoint.load(tmp_path / "run" / "checkpoint.pt", dataset="imagenet")
    assert (trained.name, trained.classes) == ("resnet18", 3)


def test_a_wrong_setting_stops_all_processes_with_the_reason(folder: Path, tmp_path: Path) -> None:
    done = torchrun(folder, tmp_path / "run", "--method", "ce", "--batch-size", "15")
    assert done.returncode != 0
    assert "batch_size must be a multiple of processes x accumulate = 2 x 1, got 15" in done.stderr


def test_the_preset_is_the_published_recipe_and_options_override_it() -> None:
    config = configure(["--teacher", "resnet34", "--method", "kd", "--epochs", "90"], "imagenet")
    assert (config.epochs, config.batch_size, config.learning_rate, config.weight_decay) == (90, 256, 0.1, 1e-4)
    assert config.milestones == (30, 60, 90)
    assert config.settings == {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}
    own = configure(["--teacher", "resnet34", "--method", "kd", "--settings.temperature", "2"], "imagenet")
    assert own.settings == {"temperature": 2, "ce_weight": 0.5, "kd_weight": 0.5}
    # The authors warm dkd up for 20 epochs on CIFAR-100, and for one on ImageNet.
    assert configure(["--teacher", "resnet34", "--method", "dkd"], "imagenet").settings["warmup_epochs"] == 1


def test_the_command_run_as_a_file_finds_the_project_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "training" / "train_cifar100.py"), "--method", "ce", "--print-config"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True)
    settings = yaml.safe_load(done.stdout)
    assert (settings["dataset"], settings["epochs"], settings["milestones"]) == ("cifar100", 240, [150, 180, 210])
