"""Memory: nothing accumulates over calls, nothing outlives its last reference, and a call takes no more than documented."""

import copy
import ctypes
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import KINDS, LABELLED_KINDS, Inputs, call, make_inputs, with_absences
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity, profile

from bickd_kernels import BicKDLoss, BilateralLoss, bickd_loss, bilateral_loss
from bickd_kernels.backends.torch import blocks, contrast

CALLS = 10_000


def resident_bytes() -> int:
    """The resident set of this process, after the allocator has returned its free memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def test_ten_thousand_calls_leave_the_resident_set_as_it_was() -> None:
    student, teacher, target = make_inputs(8, 12, dtype=torch.float32)
    student.requires_grad_()

    def calls(count: int) -> None:
        for _ in range(count // 2):
            bickd_loss(student, teacher, target).backward()
            bilateral_loss(student, teacher).backward()
            student.grad = None

    calls(CALLS // 5)
    before = resident_bytes()
    calls(CALLS)
    # The smallest object or allocation that a call could leave takes 56 bytes or more, a scalar tensor about 600. The bound
    # is less than one of them per call; without a leak, pages that come and go were 0 to 20 kB.
    assert resident_bytes() - before < 50 * CALLS


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Turns the garbage collector off, so that objects in a reference cycle stay alive."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def follow(*things: Any) -> list[Callable[[], bool]]:
    """For each object, a function that tells whether it is alive; for a tensor, whether its storage is."""

    def watch(thing: Any) -> Callable[[], bool]:
        if isinstance(thing, Tensor):
            storage = StorageWeakRef(thing.untyped_storage())
            return lambda: not storage.expired()
        reference = weakref.ref(thing)
        return lambda: reference() is not None

    return [watch(thing) for thing in things]


def follow_graph(loss: Tensor) -> list[Callable[[], bool]]:
    """Whether the node that made the loss is alive, by a hook that dies with it: not every node allows weak references."""

    def hook(*_: Any) -> None: ...

    loss.grad_fn.register_hook(hook)
    return follow(hook)


def alive(followed: list[Callable[[], bool]]) -> list[bool]:
    return [is_alive() for is_alive in followed]


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("return_terms", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_reference_frees_logits_and_graph(kind: str, return_terms: bool, backward: bool, backend: str) -> None:
    inputs = make_inputs(6, 5)
    logits = inputs.student.requires_grad_() * 1.0
    result = call(kind, inputs._replace(student=logits), return_terms=return_terms, backend=backend)
    loss = result[0] if return_terms else result
    followed = [*follow_graph(loss), *follow(logits, loss, *inputs)]
    if backward:
        loss.backward()
    assert all(alive(followed))
    del inputs, logits, result, loss
    assert not any(alive(followed))


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_keeps_neither_logits_nor_targets(kind: str) -> None:
    inputs = make_inputs(6, 5)
    logits = inputs.student.requires_grad_() * 1.0
    loss = call(kind, inputs._replace(student=logits), backend="torch")
    followed = follow(logits, inputs.teacher, inputs.target)
    del logits, inputs
    assert not any(alive(followed))
    loss.backward()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("module", [BilateralLoss, BicKDLoss])
def test_a_module_frees_itself_and_what_it_was_called_with(module: Any, backend: str) -> None:
    criterion, inputs = module(backend=backend), make_inputs(6, 5)
    logits = inputs.student.requires_grad_() * 1.0
    loss = criterion(logits, *inputs[1:])
    called_with = [*follow_graph(loss), *follow(logits, *inputs)]
    loss.backward()
    del logits, loss, inputs
    assert not any(alive(called_with))
    followed = follow(criterion, copy.deepcopy(criterion))
    del criterion
    assert not any(alive(followed))


def an_argument_that_is_wrong(criterion: Any, logits: Tensor, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match="target must be in"):
        criterion(logits, inputs.teacher, inputs.target + 100)


def a_second_derivative(criterion: Any, logits: Tensor, inputs: Inputs) -> None:
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(criterion(logits, *inputs[1:]), logits, create_graph=True)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("failure", [an_argument_that_is_wrong, a_second_derivative])
@pytest.mark.parametrize("module", [BilateralLoss, BicKDLoss])
def test_a_handled_error_keeps_nothing_alive(module: Any, failure: Any) -> None:
    criterion, inputs = module(), make_inputs(6, 5)
    logits = inputs.student.requires_grad_() * 1.0
    followed = follow(logits, criterion, *inputs)
    failure(criterion, logits, inputs)
    del criterion, logits, inputs
    assert not any(alive(followed))


def allocated(function: Callable[[], Any], folder: Path) -> tuple[Any, int, int]:
    """What ``function`` returns, and the bytes that it has taken from PyTorch's allocator, at its end and at its peak."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    memory = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    live = list(accumulate(bytes_ for _, bytes_ in memory))
    return result, live[-1] if live else 0, max(live, default=0)


def prepared(kind: str, samples: int, classes: int, dtype: torch.dtype, absences: bool) -> Inputs:
    inputs = make_inputs(samples, classes, dtype=dtype)
    if absences:
        inputs = with_absences(inputs)
        if kind == "bilateral_unlabelled":
            inputs.student[1] = 0.0
    call(kind, inputs._replace(student=inputs.student.clone().requires_grad_()), backend="torch").backward()
    return inputs._replace(student=inputs.student.requires_grad_())


@pytest.mark.parametrize("absences", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_one_array_of_the_size_of_the_logits_is_kept_for_backward(
    kind: str, dtype: torch.dtype, absences: bool, tmp_path: Path
) -> None:
    for samples, classes in ((20, 300), (300, 20)):
        inputs = prepared(kind, samples, classes, dtype, absences)
        (loss, terms), kept, peak = allocated(lambda: call(kind, inputs, return_terms=True, backend="torch"), tmp_path)  # noqa: B023
        array = samples * classes * loss.element_size()
        scalars = 64 * (1 + len(terms))
        assert array < kept <= array + scalars
        assert peak > 2 * array
        with torch.no_grad():
            _, kept, _ = allocated(lambda: call(kind, inputs, return_terms=True, backend="torch"), tmp_path)  # noqa: B023
        assert kept <= scalars


@pytest.mark.parametrize("absences", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("samples", "classes"), [(300, 300), (64, 500), (500, 64), (64, 6000)])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_the_peak_of_a_call_is_within_the_documented_bound(
    kind: str, samples: int, classes: int, dtype: torch.dtype, absences: bool, tmp_path: Path
) -> None:
    inputs = prepared(kind, samples, classes, dtype, absences)
    _, left, peak = allocated(lambda: call(kind, inputs, backend="torch").backward(), tmp_path)
    logits, row = (4 * width * max(samples, classes) for width in (min(samples, classes), 1))
    matrix = row * max(samples, classes)
    panel = min(matrix, max(contrast.PANEL_BYTES, contrast.MIN_PANEL_ROWS * row))
    assert logits <= peak <= 9 * logits + min(matrix, contrast.SIMILARITY_BUDGET_BYTES) + 4 * panel + blocks.BLOCK_BYTES
    # Only the student's gradient stays.
    assert left == inputs.student.nbytes


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_inside_the_backend_leaves_nothing_allocated(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs = prepared(kind, 20, 30, torch.float32, False)

    def out_of_memory(*_: Any, **__: Any) -> Tensor:
        raise MemoryError

    def failing() -> None:
        with pytest.raises(MemoryError):
            call(kind, inputs, backend="torch")

    monkeypatch.setattr(torch, "mm", out_of_memory)
    _, left, peak = allocated(failing, tmp_path)
    assert peak > 0
    assert left == 0
