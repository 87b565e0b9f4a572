"""The compare command with a fake trainer, from arguments to results: which runs it starts, and which it does not."""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from fake_trainer import HANDLES_SIGNALS
from PIL import Image

from training.compare import jobs
from training.compare.__main__ import locked, main
from training.compare.comparison import parse_variant
from training.compare.tuning import trials


class Trainer:
    """The fake trainer: the runs that it lets fail, and the calls since they were last read."""

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.seen, self.monkeypatch = file, 0, monkeypatch
        monkeypatch.setenv("FAKE_CALLS", str(file))
        monkeypatch.setattr(jobs, "TRAINER", [sys.executable, str(Path(__file__).with_name("fake_trainer.py"))])
        monkeypatch.setattr(jobs, "INTERVAL", 0.005)

    def fails(self, **statuses: int) -> None:
        named = {name.replace("_", "-"): status for name, status in statuses.items()}
        self.monkeypatch.setenv("FAKE_FAILURES", json.dumps(named))

    def calls(self) -> list[dict[str, Any]]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        new, self.seen = lines[self.seen :], len(lines)
        return [json.loads(line) for line in new]

    def names(self) -> list[str]:
        """The folders of the calls, without their hashes."""
        return [call["folder"].rpartition("-")[0] for call in self.calls()]


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    return Trainer(tmp_path / "calls", monkeypatch)


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    # Drawing takes longer than everything else.
    monkeypatch.setattr("training.compare.plots.draw", lambda results, folder: None)

    def call(*arguments: str, methods: str = "ce kd", seeds: int = 2) -> int:
        return main(
            [
                "--methods",
                *methods.split(),
                "--seeds",
                str(seeds),
                "--epochs",
                "2",
                "--output",
                str(tmp_path / "output"),
                *arguments,
            ]
        )

    return call


def results(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "output" / "results.json").read_text())


def test_the_teacher_runs_first_then_all_methods_seed_by_seed(
    trainer: Trainer, compare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("--teacher-epochs", "5", methods="ce kd bickd:class_wise_weight=0.5") == 0
    calls = trainer.calls()
    assert [call["folder"].rpartition("-")[0] for call in calls] == [
        "teacher", "ce-seed0", "kd-seed0", "bickd-class_wise_weight=0.5-seed0", "ce-seed1", "kd-seed1",
        "bickd-class_wise_weight=0.5-seed1",
    ]  # fmt: skip
    assert calls[3]["settings"] == {"class_wise_weight": 0.5}
    checkpoint = str(tmp_path / "output" / calls[0]["folder"] / "checkpoint.pt")
    assert [call["teacher_checkpoint"] for call in calls[:3]] == [None, None, checkpoint]
    assert all(call["resume"] for call in calls)
    printed = capsys.readouterr().out
    assert "2/6 done, kd seed 0: 50.0 %" in printed
    assert "| kd | ce_weight 0.1, kd_weight 0.9 | 49.75 ± 0.35 (n = 2) |" in (tmp_path / "output/results.md").read_text()
    assert [row["variant"] for row in results(tmp_path)["literature"]] == ["ce", "kd", "bickd:class_wise_weight=0.5"]


def test_finished_runs_are_not_repeated_and_more_seeds_are_added(trainer: Trainer, compare: Any) -> None:
    assert compare() == 0
    trainer.calls()
    assert compare() == 0
    assert trainer.names() == []
    assert compare(seeds=3) == 0
    assert trainer.names() == ["ce-seed2", "kd-seed2"]


def test_a_changed_setting_is_another_run(trainer: Trainer, compare: Any) -> None:
    assert compare(seeds=1) == 0
    before = {call["folder"] for call in trainer.calls()}
    assert compare("--learning_rate", "0.1", seeds=1) == 0
    changed = trainer.calls()
    assert len(changed) == 3
    assert before.isdisjoint(call["folder"] for call in changed)
    assert compare("--teacher-epochs", "3", seeds=1) == 0
    # Another teacher affects only the methods that have one.
    assert trainer.names() == ["teacher", "kd-seed0"]


def test_a_setting_that_affects_the_reported_times_makes_another_run(trainer: Trainer, compare: Any) -> None:
    assert compare(methods="ce", seeds=1) == 0
    assert compare("--workers", "2", methods="ce", seeds=1) == 0
    assert compare("--device", "cpu", methods="ce", seeds=1) == 0
    assert len({call["folder"] for call in trainer.calls()}) == 3


@pytest.mark.parametrize(
    ("columns", "sides", "options"),
    [
        (("photo", "mask", "kind"), (8, 8), ("--image-column", "photo", "--label-column", "kind")),
        (("image", "label"), (8, 9), ("--image-size", "8")),
    ],
    ids=["columns that only their names tell apart", "images of several sizes"],
)
def test_data_are_read_with_the_columns_and_the_size_of_the_comparison(
    columns: tuple[str, ...], sides: tuple[int, int], options: tuple[str, ...], trainer: Trainer, compare: Any,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    kinds = {name: datasets.ClassLabel(2) if name in ("kind", "label") else datasets.Image() for name in columns}
    values = {
        name: [0, 1] if name in ("kind", "label") else [Image.new("RGB", (side, side)) for side in sides] for name in columns
    }
    for part in ("train", "test"):
        rows = datasets.Dataset.from_dict(values, features=datasets.Features(kinds))
        rows.to_parquet(tmp_path / "hub" / f"{part}-0.parquet")
    assert compare("--dataset", f"hf:{tmp_path / 'hub'}", *options, methods="ce", seeds=1) == 0
    assert trainer.names() == ["ce-seed0"]


def test_runs_are_recognized_by_the_content_of_their_teacher_and_not_by_paths(
    trainer: Trainer, compare: Any, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher.pt"
    teacher.write_text("weights")
    assert compare("--teacher-checkpoint", str(teacher), seeds=1) == 0
    assert trainer.names() == ["ce-seed0", "kd-seed0"]
    moved = tmp_path / "elsewhere.pt"
    teacher.rename(moved)
    assert compare("--teacher-checkpoint", str(moved), "--data", "anywhere", seeds=1) == 0
    assert trainer.names() == []
    moved.write_text("other weights")
    assert compare("--teacher-checkpoint", str(moved), seeds=1) == 0
    assert trainer.names() == ["kd-seed0"]


def test_all_runs_repeat_the_same_views_and_runs_of_one_seed_share_the_teacher_output(
    trainer: Trainer, compare: Any, tmp_path: Path
) -> None:
    assert compare("--views", "3", methods="ce kd rkd sskd bickd") == 0
    runs = {call["folder"].rpartition("-")[0]: call for call in trainer.calls()}
    assert {call["views"] for call in runs.values()} == {3}
    # The teacher of sskd sees rotated images too.
    assert all(runs[name]["teacher_cache"] is None for name in ("teacher", "ce-seed0", "sskd-seed0", "sskd-seed1"))
    caches = [runs[f"kd-seed{seed}"]["teacher_cache"] for seed in (0, 1)]
    for method in ("rkd", "bickd"):
        assert caches == [runs[f"{method}-seed{seed}"]["teacher_cache"] for seed in (0, 1)]
    assert caches[0] != caches[1]
    assert compare("--views", "4", methods="kd") == 0
    assert not {call["teacher_cache"] for call in trainer.calls()} & set(caches)


def test_without_views_there_is_no_cache(trainer: Trainer, compare: Any) -> None:
    assert compare() == 0
    assert {call["teacher_cache"] for call in trainer.calls()} == {None}


def test_ce_alone_needs_no_teacher(trainer: Trainer, compare: Any) -> None:
    assert compare(methods="ce", seeds=1) == 0
    assert trainer.names() == ["ce-seed0"]


def test_a_failed_run_is_reported_the_others_continue_and_it_is_retried(
    trainer: Trainer, compare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.fails(kd_seed0=2)
    assert compare() == 1
    assert trainer.names() == ["teacher", "ce-seed0", "kd-seed0", "ce-seed1", "kd-seed1"]
    assert "2/4 failed, kd seed 0" in (printed := capsys.readouterr().out)
    assert "error: kd-seed0 went wrong" in printed
    table = (tmp_path / "output/results.md").read_text()
    assert "(n = 1 of 2)" in table
    assert "kd seed 0: failed" in table
    trainer.fails()
    assert compare() == 0
    assert trainer.names() == ["kd-seed0"]
    assert "failed" not in (tmp_path / "output/results.md").read_text()


def test_a_diverged_run_is_marked_and_not_retried(trainer: Trainer, compare: Any, tmp_path: Path) -> None:
    trainer.fails(kd_seed0=3)
    assert compare(seeds=1) == 1
    trainer.calls()
    assert compare(seeds=1) == 1
    assert trainer.names() == []
    assert "kd seed 0: diverged" in (tmp_path / "output/results.md").read_text()


def test_no_student_is_trained_when_the_teacher_fails(
    trainer: Trainer, compare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.fails(teacher=2)
    assert compare() == 1
    assert trainer.names() == ["teacher"]
    assert "error: teacher went wrong" in capsys.readouterr().out


def test_jobs_run_in_parallel_and_share_the_cores(
    trainer: Trainer, compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(9)))
    # The first two runs end only after both have started, however long that takes.
    monkeypatch.setenv("FAKE_COMPANY", "2")
    # Long enough that a third run would show.
    monkeypatch.setenv("FAKE_PATIENCE", "0.3")
    assert compare("--jobs", "2", methods="ce", seeds=4) == 0
    calls = trainer.calls()
    assert {call["threads"] for call in calls} == {"4"}
    moments = [call["start"] for call in calls]
    assert max(sum(call["start"] <= moment < call["end"] for call in calls) for moment in moments) == 2
    assert "Up to 2 runs shared the machine" in (tmp_path / "output/results.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_runs_and_the_same_command_resumes_them(
    number: signal.Signals, trainer: Trainer, compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FAKE_PATIENCE", "60")

    def send() -> None:
        deadline = time.monotonic() + 30
        logs = (tmp_path / "output").glob
        while not any(HANDLES_SIGNALS in log.read_text() for log in logs("ce-seed0-*/log.txt")):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    assert compare(methods="ce") == 128 + number
    thread.join()
    assert "run the same command again" in capsys.readouterr().err
    (state,) = (tmp_path / "output").glob("*/last.pt")
    assert not (state.parent / "failure.json").exists()
    assert "unfinished runs: 2" in (tmp_path / "output/results.md").read_text()
    monkeypatch.setenv("FAKE_PATIENCE", "0")
    assert compare(methods="ce") == 0
    assert [(call["seed"], call["from_state"]) for call in trainer.calls()] == [(0, True), (1, False)]


def test_two_comparisons_in_one_folder_are_refused(
    trainer: Trainer, compare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "output"):
        assert compare() == 2
    assert "in use by another comparison" in capsys.readouterr().err
    assert trainer.calls() == []


def test_wrong_settings_end_with_status_2(trainer: Trainer, compare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(methods="ce kd:weight=1") == 2
    assert "got 'weight'" in capsys.readouterr().err
    assert compare("--tune", "3", "--held-out", "0") == 2
    assert "held_out" in capsys.readouterr().err
    assert trainer.calls() == []


def test_every_variant_gets_the_same_number_of_trials_and_the_best_on_validation_is_reported(
    trainer: Trainer, compare: Any, tmp_path: Path
) -> None:
    assert compare("--tune", "4", "--jobs", "2") == 0
    calls = trainer.calls()
    tried = [call for call in calls if "-trial" in call["folder"]]
    assert Counter(call["method"] for call in tried) == {"ce": 4, "kd": 4}
    assert {call["seed"] for call in tried} == {1000}
    assert {call["seed"] for call in calls if "-seed" in call["folder"]} == {0, 1}
    for method in ("ce", "kd"):
        drawn = trials(parse_variant(method), 4)
        assert sorted(map(str, drawn)) == sorted(str(call["settings"]) for call in tried if call["method"] == method)
        assert next(call["settings"] for call in tried if call["folder"].startswith(f"{method}-trial0")) == {}
    # The trainer's validation accuracy rises with the product of the settings, its test accuracy falls with it.
    kd = max(trials(parse_variant("kd"), 4), key=lambda drawn: drawn.get("ce_weight", 1) * drawn.get("kd_weight", 1))
    assert kd
    tuned = [call for call in calls if call["folder"].startswith("kd-tuned")]
    assert [call["settings"] for call in sorted(tuned, key=lambda call: call["seed"])] == [kd, kd]
    found = results(tmp_path)
    rows = {name: next(row for row in found[name] if row["variant"] == "kd") for name in ("literature", "tuned")}
    accuracies = {name: [run["result"]["test_accuracy"] for run in row["runs"]] for name, row in rows.items()}
    assert accuracies["tuned"] < accuracies["literature"]
    assert all(len(values) == 2 for values in accuracies.values())
    # Finished trials are not repeated, and more trials are added to them.
    assert compare("--tune", "4") == 0
    assert trainer.names() == []
    assert compare("--tune", "5", methods="kd") == 0
    assert trainer.names()[0] == "kd-trial4"


def test_when_the_literature_settings_win_their_runs_are_the_tuned_ones(
    trainer: Trainer, compare: Any, tmp_path: Path
) -> None:
    trainer.fails(kd_trial1=3, kd_trial2=3)
    assert compare("--tune", "3", methods="kd", seeds=1) == 0
    assert Counter(trainer.names()) == Counter(["teacher", "kd-seed0", "kd-trial0", "kd-trial1", "kd-trial2"])
    found = results(tmp_path)
    assert found["tuned"] == found["literature"]
    assert found["trials"][0]["chosen"] == 0


def test_no_settings_are_chosen_until_a_failed_trial_succeeds(trainer: Trainer, compare: Any, tmp_path: Path) -> None:
    trainer.fails(kd_trial1=1)
    assert compare("--tune", "2", methods="kd", seeds=1) == 1
    assert results(tmp_path)["tuned"] == []
    trainer.calls()
    trainer.fails()
    assert compare("--tune", "2", methods="kd", seeds=1) == 0
    assert trainer.names()[0] == "kd-trial1"
    assert len(results(tmp_path)["tuned"]) == 1


def test_the_plots_are_drawn(trainer: Trainer, tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert main(["--methods", "kd", "--seeds", "1", "--tune", "2", "--epochs", "1", "--output", str(output)]) == 0
    pictures = {path.name: path.read_bytes()[:4] for path in output.glob("*.png")}
    assert pictures == dict.fromkeys(["accuracy.png", "cost.png", "accuracy_against_time.png"], b"\x89PNG")


def test_a_link_in_place_of_a_run_or_of_the_lock_is_refused(
    compare: Any, trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(methods="ce", seeds=1) == 0
    (run,) = (path for path in (tmp_path / "output").iterdir() if path.is_dir())
    other, elsewhere = tmp_path / "other", tmp_path / "elsewhere"
    other.mkdir()
    elsewhere.mkdir()
    (other / run.name).symlink_to(elsewhere)
    assert compare("--output", str(other), methods="ce", seeds=1) == 2
    assert "must be a folder, got a symbolic link" in capsys.readouterr().err
    (other / "lock").unlink()
    (other / "lock").symlink_to(elsewhere / "lock")
    assert compare("--output", str(other), methods="ce", seeds=1) == 2
    assert "lock" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())
