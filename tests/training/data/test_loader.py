"""Workers that die, hang or lack shared memory cause an error with a remedy, within a bounded time."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from training.data import loader
from training.data.loader import Loader, WorkerError, refuse_small_memory, sample_bytes, worker_failures
from training.data.splits import Batch, Split, View
from training.train import main


class Failing(Split):
    """20 images, one of which makes its worker fail."""

    def __init__(self, fail: Callable[[], object]) -> None:
        self.labels, self.fail = torch.arange(20), fail

    def load(self, index: Tensor, view: View | None = None) -> Batch:
        if 7 in index and get_worker_info() is not None:
            self.fail()
        return Batch(torch.zeros(len(index), 3, 8, 8), self.labels[index], index)


class Unsendable(Failing):
    """The same, with a batch that cannot be pickled."""

    def load(self, index: Tensor, view: View | None = None) -> Batch:
        batch = super().load(index, view)
        return batch._replace(broken=(lambda: 0,)) if 7 in index else batch  # type: ignore[arg-type]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def leave() -> None:
    os._exit(3)


def read(split: Split) -> None:
    with worker_failures(), Loader(split, workers=2) as reader:
        for _ in reader.batches(torch.arange(20).split(2)):
            # A dead worker must be noticed wherever the trainer is, also between batches.
            time.sleep(0.01)


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 1.0)


@pytest.mark.parametrize(
    ("split", "cause"),
    [
        pytest.param(Failing(kill), "killed by signal: Killed|exited unexpectedly", id="killed"),
        pytest.param(Failing(leave), "exited unexpectedly", id="left"),
        pytest.param(Unsendable(int), "exited unexpectedly", id="batch that cannot be sent"),
    ],
)
def test_a_dead_worker_ends_the_reading_at_once(split: Split, cause: str) -> None:
    start = time.monotonic()
    with pytest.raises(WorkerError, match=f"a process that reads images failed: .*({cause}).*--shm-size.*--workers"):
        read(split)
    # Long before the limit for a worker that is stuck.
    assert time.monotonic() - start < loader.START_SECONDS / 2
    assert not multiprocessing.active_children()


def test_a_stuck_worker_ends_the_reading_after_its_time_limit_and_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "START_SECONDS", 3)
    monkeypatch.setattr(loader, "IMAGE_SECONDS", 0.5)
    start = time.monotonic()
    monkeypatch.setattr(loader, "STOPPED_SECONDS", 2)
    with pytest.raises(WorkerError, match=r"timed out after 4\.0 seconds|did not answer for 6 seconds"):
        read(Failing(stop))
    assert time.monotonic() - start < 30
    assert not multiprocessing.active_children()


def test_an_exception_in_a_worker_is_not_a_failure_of_the_worker() -> None:
    def wrong() -> None:
        raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="wrong") as caught:
        read(Failing(wrong))
    assert not isinstance(caught.value, WorkerError)


def test_too_little_shared_memory_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Failing(int)
    assert sample_bytes(split) == 3 * 8 * 8 * 4 + 8 + 8
    batch = 10 * sample_bytes(split)
    # Two workers read two batches ahead each, and one is in use.
    monkeypatch.setattr(loader, "free_shared_memory", lambda: 5 * batch)
    refuse_small_memory(split, 10, workers=2, batches=100)
    refuse_small_memory(split, 20, workers=2, batches=2)
    refuse_small_memory(split, 1000, workers=0, batches=100)
    for wanted in ({"batch": 11}, {"workers": 3}, {"held": 2}):
        arguments = {"batch": 10, "workers": 2, "batches": 100, **wanted}
        with pytest.raises(ValueError, match=r"^workers: .* of shared memory .*--shm-size=2g.*--workers 0"):
            refuse_small_memory(split, **arguments)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="workers: 4 of them"):
        refuse_small_memory(split, 10, workers=2, batches=100)
    monkeypatch.setattr(loader, "free_shared_memory", lambda: None)
    refuse_small_memory(split, 10, workers=2, batches=100)


def test_the_free_shared_memory_is_that_of_the_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader, "SHARED_MEMORY", tmp_path / "nowhere")
    assert loader.free_shared_memory() is None
    # Other programs fill and empty the file systems of this machine, between any two questions.
    systems = {tmp_path: SimpleNamespace(f_bavail=7, f_bfree=9, f_frsize=4096, f_bsize=8192)}
    monkeypatch.setattr(os, "statvfs", systems.__getitem__)
    monkeypatch.setattr(loader, "SHARED_MEMORY", tmp_path)
    assert loader.free_shared_memory() == 7 * 4096


@pytest.mark.parametrize("held_out", ["0", "0.2"])
def test_a_run_with_too_little_shared_memory_is_refused_before_its_first_batch(
    held_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, count in (("train", 20), ("val", 30)):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32)).save(tmp_path / part / name / f"{index}.png")
    # Training batches of 16 x 12 KB would fit, an evaluation batch of 60 does not.
    monkeypatch.setattr(loader, "free_shared_memory", lambda: 600_000)
    arguments = ["--dataset", f"folder:{tmp_path}", "--image-size", "32", "--method", "ce", "--held-out", held_out]
    assert main([*arguments, "--workers", "2", "--batch-size", "16", "--output", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert "--shm-size" in errors
    assert "--workers 0" in errors
    assert not (tmp_path / "run").exists()
