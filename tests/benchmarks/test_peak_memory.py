"""The peak of a call is that of its known allocations."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.memory import peak_bytes

KIB = 256
"""Floats of 4 bytes."""


def array(kib: int) -> Tensor:
    return torch.empty(kib * KIB)


def test_what_is_alive_at_the_same_time_adds_up() -> None:
    assert peak_bytes(lambda: (array(3), array(5)), "cpu") == 8 * 1024


def test_what_was_freed_before_the_peak_is_no_part_of_it() -> None:
    def step() -> None:
        first = array(40)
        del first
        second, third = array(30), array(20)
        del second, third
        array(10)

    assert peak_bytes(step, "cpu") == 50 * 1024


def test_what_was_freed_after_the_peak_is_part_of_it() -> None:
    kept = []

    def step() -> None:
        temporary = array(7)
        kept.append(array(2))
        del temporary
        kept.append(array(1))

    assert peak_bytes(step, "cpu") == 9 * 1024


def test_what_was_there_before_is_no_part_of_it() -> None:
    before = array(100)
    assert peak_bytes(before.zero_, "cpu") == 0
    assert peak_bytes(lambda: before + before, "cpu") == before.nbytes


def test_backward_is_part_of_it() -> None:
    leaf = array(16).requires_grad_()

    def step() -> None:
        leaf.exp().backward(leaf.detach())

    # The exponentials wait for the gradient.
    assert peak_bytes(step, "cpu") == 2 * leaf.nbytes


def test_the_same_call_takes_the_same_again() -> None:
    x = torch.rand(60, 70)
    first, second = (peak_bytes(lambda: torch.softmax(x, 1) @ x.T, "cpu") for _ in range(2))
    assert first == second == x.nbytes + 4 * 60 * 60


def test_compiled_code_allocates_under_the_same_account() -> None:
    x, y = torch.rand(96, 160), torch.rand(160, 32)
    # An operand of a product is formed first, whatever is fused.
    step = torch.compile(lambda: (x.exp() + 1) @ y)
    step()
    assert peak_bytes(step, "cpu") == x.nbytes + 4 * 96 * 32


def test_on_a_gpu_it_is_the_allocators_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    answers: dict[str, Any] = {"memory_allocated": 300, "max_memory_allocated": 1000}

    def called(name: str) -> Any:
        return lambda: (order.append(name), answers.get(name))[1]

    names = ("synchronize", "reset_peak_memory_stats", "memory_allocated", "max_memory_allocated")
    monkeypatch.setattr(memory.torch, "cuda", SimpleNamespace(**{name: called(name) for name in names}))
    assert peak_bytes(lambda: order.append("step"), "cuda") == 700
    synchronized = ["synchronize", "reset_peak_memory_stats", "memory_allocated", "step", "synchronize"]
    assert order == [*synchronized, "max_memory_allocated"]
