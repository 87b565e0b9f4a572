"""A second call launches the compiled kernels directly if, and only if, it has the configuration of the first."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from cases import Inputs, evaluate, make_inputs
from triton import knobs
from triton.runtime.jit import JITFunction

from benchmarks import host_cost
from bickd_kernels.backends.triton import planning

GRID = slice(0, 3)
LAUNCH_METADATA, ENTER_HOOK = 6, 7
FIRST_ARGUMENT = 9
"""The positions of these among the arguments of Triton's launcher."""


class Recorder:
    """What was launched, and how often Triton looked for the compiled kernel."""

    def __init__(self) -> None:
        self.launches: list[tuple[Any, ...]] = []
        self.searches = 0

    def clear(self) -> None:
        self.launches.clear()
        self.searches = 0


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    recorded = Recorder()
    item = JITFunction.__getitem__

    def search(self: JITFunction, grid: Any) -> Any:
        recorded.searches += 1
        return item(self, grid)

    monkeypatch.setattr(JITFunction, "__getitem__", search)
    monkeypatch.setattr(host_cost._Launcher, "__call__", lambda self, *arguments: recorded.launches.append(arguments))
    with host_cost.launches_that_do_nothing():
        yield recorded


def as_numbers(arguments: tuple[Any, ...]) -> list[Any]:
    """The grid and the arguments of the kernel, without the tensors, which differ in every call."""
    kernel_arguments = [value for value in arguments[FIRST_ARGUMENT:] if not isinstance(value, torch.Tensor)]
    return [*arguments[GRID], *kernel_arguments]


def step(inputs: Inputs, **options: Any) -> None:
    evaluate("bickd", inputs, **options)


def test_the_second_call_launches_the_same_without_a_search(recorder: Recorder) -> None:
    inputs = make_inputs(20, 30, dtype=torch.bfloat16)
    step(inputs)
    first = [as_numbers(launch) for launch in recorder.launches]
    assert (recorder.searches, len(first)) == (6, 6)
    recorder.clear()
    step(inputs)
    assert recorder.searches == 0
    assert [as_numbers(launch) for launch in recorder.launches] == first


def test_options_that_are_numbers_reach_a_direct_launch(recorder: Recorder) -> None:
    inputs = make_inputs(20, 30, dtype=torch.bfloat16)
    step(inputs)
    recorder.clear()
    step(inputs, kd_temperature=3.25)
    assert recorder.searches == 0
    numbers = [value for launch in recorder.launches for value in launch if hasattr(value, "kd_temperature")]
    assert [value.kd_temperature for value in numbers] == [3.25] * len(numbers)
    assert len(numbers) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: (inputs, {"ignore_index": 7}),
        lambda inputs: (inputs, {"ce_weight": 0.0}),
        lambda inputs: (inputs, {"contrast_temperature": 0.05}),
        lambda inputs: (inputs._replace(teacher=inputs.teacher.float()), {}),
        lambda inputs: (Inputs(*(tensor[:19] for tensor in inputs)), {}),
        lambda inputs: (inputs._replace(student=torch.cat([inputs.student] * 2, 1)[:, :30]), {}),
    ],
    ids=["ignore_index", "terms", "grade of the products", "dtype", "samples", "stride"],
)
def test_another_configuration_is_searched_for(
    change: Callable[[Inputs], tuple[Inputs, dict[str, Any]]], recorder: Recorder
) -> None:
    inputs = make_inputs(20, 30, dtype=torch.bfloat16)
    step(inputs)
    recorder.clear()
    changed, options = change(inputs)
    step(changed, **options)
    assert recorder.searches == len(recorder.launches) > 0


def test_unaligned_tensors_are_launched_by_triton_each_time(recorder: Recorder) -> None:
    inputs = make_inputs(20, 30, dtype=torch.bfloat16)
    step(inputs)
    shifted = inputs._replace(teacher=torch.cat([torch.zeros(1).bfloat16(), inputs.teacher.flatten()])[1:].view(20, 30))
    for _ in range(2):
        recorder.clear()
        step(shifted)
        assert recorder.searches == len(recorder.launches) == 6
    recorder.clear()
    step(inputs)
    assert recorder.searches == 0


def test_amd_kernels_are_always_launched_by_triton(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "current_target", lambda: planning.Target("hip", "gfx942", 32))
    inputs = make_inputs(20, 30, dtype=torch.bfloat16)
    for _ in range(2):
        recorder.clear()
        step(inputs)
        assert recorder.searches == 6


def test_a_replaced_launch_function_sees_every_launch(recorder: Recorder) -> None:
    inputs = make_inputs(20, 30, dtype=torch.bfloat16)
    step(inputs)
    seen: list[str] = []

    def run(self: JITFunction, *_: Any, **__: Any) -> None:
        seen.append(self.__name__)

    with mock.patch.object(JITFunction, "run", run):
        for _ in range(2):
            step(inputs)
    assert len(seen) == 12
    recorder.clear()
    step(inputs)
    assert recorder.searches == 0
    assert len(recorder.launches) == 6


def test_profiler_hooks_see_every_launch(recorder: Recorder) -> None:
    inputs = make_inputs(20, 30, dtype=torch.bfloat16)
    step(inputs)
    recorder.clear()

    def hook(metadata: Any) -> None:
        pass

    knobs.runtime.launch_enter_hook.add(hook)
    try:
        step(inputs)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    names = [launch[LAUNCH_METADATA].get()["name"] for launch in recorder.launches]
    assert names == [
        "sample_statistics",
        "class_statistics",
        "similarity_tiles",
        "derivative_tiles",
        "slope_tiles",
        "logit_gradient",
    ]
    assert all(launch[ENTER_HOOK] is not None for launch in recorder.launches)
