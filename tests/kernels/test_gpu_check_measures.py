"""The measuring phases of ``gpu_check``, with simulated kernels and a fake clock in place of the GPU's."""

import itertools
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from checks import NOTHING
from simulate import simulator

from benchmarks.gpu_check import environment, graphs, host, kernels, steps, sweep, timing, worker
from benchmarks.gpu_check.report import render
from benchmarks.gpu_check.task import Task
from bickd_kernels.accuracy import Case

SMALL = Case(17, 29, torch.bfloat16)

TICK = 0.5
"""Milliseconds between two events."""


class Event:
    """An event of a clock that ticks once per recorded event."""

    clock = itertools.count()

    def __init__(self, **_: Any) -> None:
        self.ticks = 0

    def record(self) -> None:
        self.ticks = next(Event.clock)

    def elapsed_time(self, other: "Event") -> float:
        return TICK * (other.ticks - self.ticks)


class CUDAGraph:
    """A graph that replays nothing."""

    def replay(self) -> None:
        pass


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulates the kernels, and the measuring functions of ``torch.cuda``."""
    with simulator(races="off"):
        stream = SimpleNamespace(wait_stream=lambda _: None)
        for name, stand_in in {
            "Event": Event,
            "CUDAGraph": CUDAGraph,
            "graph": lambda _: nullcontext(),
            "stream": lambda _: nullcontext(),
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "synchronize": lambda: None,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda: None,
            "memory_allocated": lambda: 1_000_000,
            "max_memory_allocated": lambda: 4_500_000,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(steps, "ROUNDS", 2)
        yield


def lines_of(phase: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of ``results.jsonl`` for a result."""
    session = {"kind": "session", "at": 0.0, "seconds": 480, "phases": [phase]}
    return [
        session,
        {"kind": "result", "at": 1.0, "phase": phase, "task": "one", "seconds": 1.0, **json.loads(json.dumps(result))},
    ]


@pytest.mark.usefixtures("gpu")
def test_kernels_and_definition_are_timed_in_turns() -> None:
    found = timing.time_case(SMALL)
    # A graph has as many steps as take two milliseconds: here 4, replayed in one tick.
    assert found["milliseconds"] == {"kernels": TICK / 4, "definition": TICK / 4}
    assert found["megabytes"] == {"kernels": 3.5, "definition": 3.5}
    assert "| 17, 29 | bfloat16 | 0.125 | 0.125 | - | 3.5, 3.5, - |" in render(lines_of("timing", found))


@pytest.mark.usefixtures("gpu")
def test_kernels_are_timed_alone_where_the_definition_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Case) -> Any:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(timing, "by_definition", fail)
    found = timing.time_case(SMALL)
    assert found["milliseconds"] == {"kernels": TICK / 4}
    assert found["problem"] == "definition: OutOfMemoryError: too large"


@pytest.mark.usefixtures("gpu")
def test_the_sample_side_alone_is_timed_beside_its_own_definition() -> None:
    case = Case(17, 29, torch.bfloat16, loss="bilateral_loss", options={"class_wise_weight": 0.0})
    (by_kernels,) = steps.step_by(case, "reference")()
    batch = steps.make_batch(case, "cuda")
    (by_formulas,) = steps.step_of(steps.by_definition(case), batch)()
    # Results with an error of float32 round to the same bfloat16 number or to the next, 2^-7 away; where entries cancel, the
    # error of float32 remains.
    torch.testing.assert_close(by_kernels, by_formulas, rtol=2**-7, atol=NOTHING)
    assert timing.time_case(case)["batch"] == "17, 29, sample side alone"


class Profiler:
    """A profiler that has seen the kernels in ``found``."""

    found: ClassVar[dict[str, tuple[float, int]]] = {}

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def key_averages(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(key=key, self_device_time_total=time, count=n) for key, (time, n) in self.found.items()]


@pytest.mark.usefixtures("gpu")
def test_correlations_are_timed_beside_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timing.time_correlation(SMALL)
    assert found["similarities"] == {"cosine": TICK / 4, "correlation": TICK / 4}
    by_kernels = steps.step_by
    monkeypatch.setattr(timing, "step_by", lambda case, _: by_kernels(case, "reference"))
    text = render(lines_of("timing", timing.time_correlation(SMALL)))
    assert "| 17, 29 | bfloat16 | 0.125 | 0.125 | 1.00 |" in text


@pytest.mark.usefixtures("gpu")
def test_each_kernel_is_profiled_with_its_time_and_launches_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "profile", Profiler)
    monkeypatch.setattr(kernels, "CALLS", 2)
    assert kernels.profile_case(SMALL)["problem"] == "the profiler saw no kernel"
    seen = {"slope_tiles": (58.0, 4), "cudaLaunchKernel": (0.0, 9), "void at::elementwise_kernel<2>": (6.0, 2)}
    monkeypatch.setattr(Profiler, "found", seen)
    assert kernels.profile_case(SMALL)["kernels"] == {"slope_tiles": (29.0, 2.0), "scale": (3.0, 1.0)}


@pytest.mark.usefixtures("gpu")
def test_a_machine_without_a_profiler_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise RuntimeError("insufficient privileges")

    monkeypatch.setattr(kernels, "profile", refuse)
    assert kernels.profile_case(SMALL)["problem"] == "RuntimeError: insufficient privileges"


def test_the_elementwise_kernel_of_pytorch_is_reported_as_scale() -> None:
    assert kernels.short("void at::native::vectorized_elementwise_kernel<4, ...>") == "scale"
    assert kernels.short("slope_tiles") == "slope_tiles"


@pytest.mark.usefixtures("gpu")
def test_launch_parameters_are_compared_with_the_plan_in_turns(tmp_path: Path) -> None:
    change = {"sample_logits": {"samples": 4, "warps": 2}}
    found = sweep.compare(SMALL, change, tmp_path)
    assert found["milliseconds"] == {"as it is": TICK / 4, "changed": TICK / 4}
    # In units of the largest entry, as in ``test_gpu_check``.
    assert 0 <= found["difference"] <= 2**-8
    assert "| 17, 29 | bfloat16 | {'sample_logits': {'samples': 4, 'warps': 2}} |" in render(lines_of("sweep", found))


@pytest.mark.usefixtures("gpu")
def test_launch_parameters_that_do_not_work_are_skipped(tmp_path: Path) -> None:
    found = sweep.attempt(SMALL, {"no such parameter": 1}, tmp_path)
    assert found["skipped"].startswith("ValueError")
    text = render(lines_of("sweep", found))
    assert "1 could not be compiled or launched, for example: ValueError" in text
    assert "FAILED" not in text


def test_running_out_of_memory_is_not_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = worker.perform(Task("one", fill))
    assert found["problem"] == "OutOfMemoryError: CUDA out of memory"
    assert "passed" not in found
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("gpu")
def test_a_graph_that_replays_nothing_fails() -> None:
    assert graphs.check_graph(SMALL) == {"passed": False}


@pytest.mark.usefixtures("gpu")
def test_the_host_time_of_kernels_and_definition_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "ROUNDS", 2)
    monkeypatch.setattr(host, "STEPS", 1)
    monkeypatch.setattr(host, "WARM_UP", 1)
    found = host.time_host(SMALL)
    assert found["microseconds"].keys() == {"kernels", "definition"}
    assert all(time > 0 for time in found["microseconds"].values())


def test_the_environment_is_described_with_and_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    properties = SimpleNamespace(multi_processor_count=132, total_memory=141e9, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = environment.card()["facts"]
    assert facts["multiprocessors"] == "132"
    assert facts["nvidia-smi"].startswith("FileNotFoundError")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.1, 1980 MHz'\n")
    tool.chmod(0o755)
    facts = environment.card()["facts"]
    assert (facts["name"], facts["driver_version"], facts["clocks.sm"]) == ("NVIDIA H200", "580.1", "1980 MHz")
    assert environment.software()["facts"]["torch"].startswith(torch.__version__)
    assert "revision" in environment.revision()["facts"]
