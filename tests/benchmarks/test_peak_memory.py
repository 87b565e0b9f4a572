"""The measured peak memory of a call is that of its known allocations."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.memory import peak_bytes

KIB = 256
"""Numbers of 4 bytes in a KiB."""


def array(kib: int) -> Tensor:
    return torch.empty(kib * KIB)


def test_tensors_alive_at_the_same_time_add_up() -> None:
    assert peak_bytes(lambda: (array(3), array(5)), "cpu") == 8 * 1024


def test_tensors_freed_before_the_peak_do_not_count() -> None:
    def step() -> None:
        first = array(40)
        del first
        second, third = array(30), array(20)
        del second, third
        array(10)

    assert peak_bytes(step, "cpu") == 50 * 1024


def test_tensors_freed_after_the_peak_count() -> None:
    kept = []

    def step() -> None:
        temporary = array(7)
        kept.append(array(2))
        del temporary
        kept.append(array(1))

    assert peak_bytes(step, "cpu") == 9 * 1024


def test_tensors_that_existed_before_the_call_do_not_count() -> None:
    before = array(100)
    assert peak_bytes(before.zero_, "cpu") == 0
    assert peak_bytes(lambda: before + before, "cpu") == before.nbytes


def test_the_backward_pass_counts() -> None:
    leaf = array(16).requires_grad_()

    def step() -> None:
        leaf.exp().backward(leaf.detach())

    # The exponentials are kept until the gradient is computed.
    assert peak_bytes(step, "cpu") == 2 * leaf.nbytes


def test_the_same_call_has_the_same_peak_again() -> None:
    x = torch.rand(60, 70)
    first, second = (peak_bytes(lambda: torch.softmax(x, 1) @ x.T, "cpu") for _ in range(2))
    assert first == second == x.nbytes + 4 * 60 * 60


def test_allocations_of_compiled_code_count() -> None:
    x, y = torch.rand(96, 160), torch.rand(160, 32)
    # The operand of a product is materialized, whatever is fused.
    step = torch.compile(lambda: (x.exp() + 1) @ y)
    step()
    assert peak_bytes(step, "cpu") == x.nbytes + 4 * 96 * 32


def test_on_a_gpu_the_peak_is_that_of_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    answers: dict[str, Any] = {"memory_allocated": 300, "max_memory_allocated": 1000}

    def called(name: str) -> Any:
        return lambda: (order.append(name), answers.get(name))[1]

    names = ("synchronize", "reset_peak_memory_stats", "memory_allocated", "max_memory_allocated")
    monkeypatch.setattr(memory.torch, "cuda", SimpleNamespace(**{name: called(name) for name in names}))
    assert peak_bytes(lambda: order.append("step"), "cuda") == 700
    synchronized = ["synchronize", "reset_peak_memory_stats", "memory_allocated", "step", "synchronize"]
    assert order == [*synchronized, "max_memory_allocated"]
