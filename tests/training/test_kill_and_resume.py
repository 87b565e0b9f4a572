"""A run that is killed, stopped or damaged resumes as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from stopped_runs import stop_after_save

from training.data import digits100
from training.storage import files
from training.train import main

ROOT = Path(__file__).parents[2]
SMALL = """
from training.data import digits100
digits100.PAIRS.update(train=160, validation=40, test=40)
"""
MAIN = """
import sys
from training.train import main
sys.exit(main(sys.argv[1:]))
"""
WAITING = """
import itertools, time
from training.storage import files
save, saves = files.save, itertools.count(1)
def save_and_wait(path, content):
    save(path, content)
    if next(saves) == 3:
        time.sleep(600)
files.save = save_and_wait
"""
"""A run that is to be killed waits for that after its third save: it must not finish before."""


def start(*arguments: str, setup: str = "") -> "subprocess.Popen[str]":
    """Starts the command in its own process, on a data set small enough for a test."""
    code = SMALL + setup + MAIN
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: "subprocess.Popen[str]", expected: int = 0) -> tuple[str, str]:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == expected, errors
    return printed, errors


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    finish(start("--method", "ce", "--epochs", "1", "--output", str(folder / "run")))
    return folder / "run" / "checkpoint.pt"


def arguments(teacher: Path, output: Path) -> list[str]:
    """Method crd, because it has heads, a memory bank and random negatives in addition to what every method has."""
    return [
        "--method", "crd", "--settings.negatives", "64", "--teacher-checkpoint", str(teacher), "--epochs", "3",
        "--batch-size", "16", "--accumulate", "2", "--ema-decay", "0.9", "--workers", "2", "--checkpoint-minutes", "0",
        "--augmentation", "imagenet", "--auto-augment", "trivialaugment", "--random-erasing", "0.5",
        "--output", str(output),
    ]  # fmt: skip


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and metrics of a finished run, without its times."""
    state = files.read(folder / "checkpoint.pt")["state"]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "evaluation_seconds", "images_per_second")
    return state, [{name: value for name, value in record.items() if name not in times} for record in records]


def time_of_save(folder: Path) -> int | None:
    """When last.pt was written; none while a save has moved the old one away."""
    try:
        return (folder / "last.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_killed_at_random_steps_ends_with_the_same_bits_as_an_uninterrupted_one(teacher: Path, tmp_path: Path) -> None:
    finish(start(*arguments(teacher, tmp_path / "whole")))
    killed, chance = tmp_path / "killed", random.Random()
    resume = ["--config", str(killed / "config.yaml"), "--resume"]
    for command in (arguments(teacher, killed), resume, resume):
        before = time_of_save(killed)
        process = start(*command, setup=WAITING)
        wait(lambda before=before: time_of_save(killed) not in (None, before))
        # The kill may come at any point after a save, also while the next one is being written.
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.communicate()
    process = start(*resume)
    printed, _ = finish(process)
    assert "resumed at epoch" in printed
    (state, records), (expected_state, expected_records) = outcome(killed), outcome(tmp_path / "whole")
    assert all(torch.equal(state[name], expected_state[name]) for name in expected_state)
    assert records == expected_records
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert not list(killed.glob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_and_prints_the_resume_command(number: signal.Signals, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start("--method", "ce", "--epochs", "400", "--workers", "1", "--output", str(output))
    wait((output / "last.pt").exists)
    process.send_signal(number)
    _, errors = finish(process, expected=128 + number)
    assert f"stopped by {number.name}, checkpoint saved; resume with:" in errors
    assert f"--config {output / 'config.yaml'} --resume" in errors
    assert files.read(output / "last.pt")["epoch"] >= 1
    assert yaml.safe_load((output / "config.yaml").read_text())["epochs"] == 400


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that stopped in its third epoch."""
    monkeypatch.setattr(digits100, "PAIRS", {"train": 100, "validation": 40, "test": 40})
    with monkeypatch.context() as patch:
        stop_after_save(patch, epoch=3)
        assert main(["--method", "ce", "--epochs", "3", "--output", str(tmp_path / "run")]) == 2
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(
    damage: str, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = unfinished / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        # Not just any byte: the padding between the members of the archive is not content.
        content[content.index(b"learner")] ^= 1
    last.write_bytes(content)
    with pytest.warns(UserWarning, match=r"last.pt is damaged or not a checkpoint.*; trying the previous checkpoint"):
        assert main(["--config", str(unfinished / "config.yaml"), "--resume"]) == 0
    assert "resumed at epoch 2, step 0" in capsys.readouterr().out
    _, records = outcome(unfinished)
    assert [record["epoch"] for record in records] == [1, 2, 3]


def test_a_run_without_a_readable_checkpoint_is_not_restarted(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("last.pt", "previous.pt"):
        (unfinished / name).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="damaged"):
        assert main(["--config", str(unfinished / "config.yaml"), "--resume"]) == 2
    assert "no checkpoint in" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_other_settings(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ["--config", str(unfinished / "config.yaml"), "--resume", "--learning-rate", "0.2", "--workers", "1"]
    assert main(changed) == 2
    error = capsys.readouterr().err
    assert "learning_rate 0.05 then and 0.2 now" in error
    assert "workers" not in error


def test_a_folder_with_a_run_is_not_used_for_another(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--method", "ce", "--epochs", "3", "--output", str(unfinished)]) == 2
    assert "already holds a run: continue it with --resume" in capsys.readouterr().err


def test_a_finished_run_is_not_run_again_by_resume(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = ["--config", str(unfinished / "config.yaml"), "--resume"]
    assert main(resume) == 0
    before = (unfinished / "checkpoint.pt").stat().st_mtime_ns
    assert main(resume) == 0
    assert "is already finished" in capsys.readouterr().out
    assert (unfinished / "checkpoint.pt").stat().st_mtime_ns == before
    assert not list(unfinished.glob("last*"))
