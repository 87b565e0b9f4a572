"""Distributed training gives the same student as one process alone, and the same again after a resume."""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from together import together
from torch import Tensor, nn

from training.config import Config
from training.data.identity import Identity
from training.data.splits import Batch, Split, Splits, View
from training.loop import distributed
from training.loop.distributed import Processes
from training.loop.engine import Trainer, build
from training.loop.interruption import Interruption
from training.loop.teacher import Teacher, freeze
from training.methods import Dimensions, Method, make_method
from training.models import Network
from training.observer import Observer
from training.state import EpochRecord, State

STEPS = 8


class Noise(Split):
    """Images of noise that depend on the view; ``broken`` samples cannot be read."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.labels, self.broken = torch.arange(count) % 3, broken

    def load(self, index: Tensor, view: View | None = None) -> Batch:
        generator = torch.Generator().manual_seed(0) if view is None else view.generator()
        kept = torch.tensor([sample for sample in index.tolist() if sample not in self.broken], dtype=torch.int64)
        failures = tuple(f"image {sample} is broken" for sample in index.tolist() if sample in self.broken)
        return Batch(torch.randn(len(self), 1, 4, 4, generator=generator)[kept], self.labels[kept], kept, failures)


def network(norm: bool) -> nn.Module:
    """A small network; with ``norm``, every process has its own batch statistics and random numbers."""
    between = [nn.BatchNorm1d(5), nn.Dropout(0.2)] if norm else []
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), *between, nn.Linear(5, 3))


def set_up(method: Method, labels: Tensor) -> Method:
    method.set_up(Dimensions(5, 5, 3, labels))
    return method


def trainer(config: Config, processes: Processes, saved: list[State], norm: bool, broken: tuple[int, ...] = ()) -> Trainer:
    # No size is a multiple of the number of processes, so that their parts of an evaluation differ.
    splits = Splits(Noise(8 * STEPS + 3, broken), Noise(7), Noise(31), 3, 1, "noise", Identity(("a", "b", "c"), {}))
    student = Network(build(lambda: network(norm), 3), 3)
    method = make_method(config.method, config.settings)
    teacher = None
    if method.needs_teacher:
        teacher = Teacher(freeze(Network(build(lambda: network(False), 5), 3)), 0.0, "float32")
    build(lambda: set_up(method, splits.train.labels), 7)
    torch.manual_seed(processes.rank)
    return Trainer(
        config, splits, student, method, teacher, torch.device("cpu"), processes, Observer(), saved.append,
        Interruption(),
    )  # fmt: skip


def work(
    rank: int, folder: Path, settings: dict[str, Any], norm: bool, resume: bool, broken: tuple[int, ...]
) -> dict[str, Any]:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(dist.get_world_size()), LOCAL_RANK=str(rank))
    processes, _ = distributed.start("cpu")

    class Saved(list[State]):
        def append(self, state: State) -> None:
            torch.save(state, folder / f"state-{state['epoch']}-{state['step']}.pt")

    run = trainer(Config(**settings), processes, Saved(), norm, broken)
    if resume:
        run.load_state(torch.load(folder / f"state-2-{STEPS // 2}.pt", weights_only=True))
    records = run.train()
    return {
        "state": run.network.state_dict(),
        "method": run.learner.method.state_dict(),
        "skipped": [record.skipped for record in records],
        "numbers": [
            (record.loss, record.train_accuracy, record.validation_accuracy, record.test_accuracy) for record in records
        ],
    }


def two_processes(
    folder: Path, settings: dict[str, Any], *, norm: bool, resume: bool = False, broken: tuple[int, ...] = ()
) -> list[dict[str, Any]]:
    """The results of two processes, which save their states in ``folder``."""
    group = Path(tempfile.mkdtemp(dir=folder))
    return together(2, work, folder, settings, norm, resume, broken, folder=group)


SETTINGS: dict[str, Any] = {"method": "ce", "epochs": 2, "batch_size": 8, "learning_rate": 0.1, "seed": 3}


BICKD: dict[str, Any] = {**SETTINGS, "method": "bickd", "teacher_checkpoint": Path("teacher.pt"), "learning_rate": 0.02}


@pytest.mark.parametrize(
    ("settings", "accumulate"),
    [
        pytest.param(SETTINGS, 1, id="ce"),
        pytest.param(SETTINGS, 2, id="ce-accumulated"),
        # Below the norm of every gradient of this run: each step is clipped, by the norm over all processes and parts.
        pytest.param({**SETTINGS, "clip_norm": 0.05}, 2, id="clipped-accumulated"),
        pytest.param(BICKD, 1, id="bickd"),
        pytest.param({**BICKD, "settings": {"positives": "sample"}}, 1, id="bickd-by-sample"),
        pytest.param({**BICKD, "mixup": 0.4, "cutmix": 1.0}, 1, id="bickd-mixed"),
        # A part of one sample, whose partner is in another part.
        pytest.param({**SETTINGS, "mixup": 0.4, "cutmix": 1.0}, 4, id="ce-mixed-accumulated"),
    ],
)
def test_two_processes_take_the_same_steps_as_one_with_the_whole_batch(
    settings: dict[str, Any], accumulate: int, tmp_path: Path
) -> None:
    alone = trainer(Config(**settings), Processes(), [], norm=False)
    records = alone.train()
    results = two_processes(tmp_path, {**settings, "accumulate": accumulate}, norm=False)
    assert_same(results, alone, records)


def assert_same(results: list[dict[str, Any]], alone: Trainer, records: list[EpochRecord]) -> None:
    """Weights and metrics of every process are those of one alone, up to rounding."""
    for result in results:
        for name, value in alone.network.state_dict().items():
            torch.testing.assert_close(result["state"][name], value, rtol=1e-5, atol=1e-6)
        for (loss, train, validation, test), record in zip(result["numbers"], records, strict=True):
            assert loss == pytest.approx(record.loss, rel=1e-5)
            assert (train, validation, test) == pytest.approx(
                (record.train_accuracy, record.validation_accuracy, record.test_accuracy)
            )


BROKEN = tuple(sample for sample in range(8 * STEPS + 3) if sample % 3)
"""So many that with one image a process, most steps leave a process without one, and some leave both."""


@pytest.mark.parametrize(
    ("settings", "accumulate"),
    [
        pytest.param({**SETTINGS, "batch_size": 2}, 1, id="ce"),
        pytest.param({**SETTINGS, "batch_size": 8}, 4, id="ce-accumulated"),
        pytest.param({**BICKD, "batch_size": 2}, 1, id="bickd"),
        pytest.param({**BICKD, "batch_size": 4, "logit_standardization": True}, 1, id="bickd-standardized"),
    ],
)
def test_two_processes_take_the_same_steps_as_one_when_one_has_no_image(
    settings: dict[str, Any], accumulate: int, tmp_path: Path
) -> None:
    alone = trainer(Config(**settings), Processes(), [], norm=False, broken=BROKEN)
    records = alone.train()
    results = two_processes(tmp_path, {**settings, "accumulate": accumulate}, norm=False, broken=BROKEN)
    assert_same(results, alone, records)
    assert sum(record.skipped for record in records) > 0
    assert results[0]["skipped"] == results[1]["skipped"] == [record.skipped for record in records]


def test_memory_banks_agree_when_one_process_has_no_image(tmp_path: Path) -> None:
    settings = {**BICKD, "method": "crd", "settings": {"negatives": 8}, "batch_size": 2}
    results = two_processes(tmp_path, settings, norm=False, broken=BROKEN)
    first, second = (result["method"] for result in results)
    assert all(torch.isfinite(value).all() for value in first.values())
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_broken_image_in_one_process_ends_a_strict_run_in_every_process(tmp_path: Path) -> None:
    strict = {**SETTINGS, "strict_data": True}
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=r"strict_data: .*image"):
        two_processes(tmp_path, strict, norm=False, broken=(5,))


def test_a_contrast_within_each_process_gives_a_lower_loss(tmp_path: Path) -> None:
    alone = trainer(Config(**BICKD), Processes(), [], norm=False)
    (record, *_) = alone.train()
    results = two_processes(tmp_path, {**BICKD, "settings": {"global_batch": False}}, norm=False)
    # Each process has its own loss, and the mean of both is recorded. To tell a sample from n - 1 unrelated ones costs
    # log n, up to one hundredth, with the weight 4: among half as many samples it costs log 2 less.
    assert results[0]["numbers"][0][0] == results[1]["numbers"][0][0]
    assert record.loss - results[0]["numbers"][0][0] == pytest.approx(4 * math.log(2), abs=2 * 4 * 0.01)


def test_resumed_processes_end_with_the_same_bits_and_agree_with_each_other(tmp_path: Path) -> None:
    settings = {**SETTINGS, "checkpoint_minutes": 0.0, "ema_decay": 0.5}
    whole = two_processes(tmp_path, settings, norm=True)
    resumed = two_processes(tmp_path, settings, norm=True, resume=True)
    for name, value in whole[0]["state"].items():
        for other in (whole[1], *resumed):
            assert torch.equal(other["state"][name], value), name
    assert resumed[0]["numbers"] == whole[0]["numbers"]


def test_a_single_process_is_the_first_of_one_and_reduces_only_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    processes, device = distributed.start("cpu")
    assert (processes, device.type, processes.first) == (Processes(0, 1, 0), "cpu", True)
    assert distributed.sum_over(torch.tensor([2.0])).tolist() == [2.0]
    assert distributed.largest_of([1, 3], device) == [1, 3]
    assert distributed.gather("x") == ["x"]
