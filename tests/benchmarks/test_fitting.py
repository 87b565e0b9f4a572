"""The memory that a provider needs is known before it runs; memory, speed and description of the machine."""

from pathlib import Path

import pytest
import torch

from benchmarks import fitting, machine
from benchmarks.cases import Case, make_inputs
from benchmarks.memory import peak_bytes
from benchmarks.providers import forward_and_backward, providers


def measured(provider: str, case: Case) -> int:
    found = next(one for one in providers(case, "cpu") if one.name == provider)
    inputs = make_inputs(case)
    given = inputs.student.nbytes + inputs.teacher.nbytes + inputs.target.nbytes
    return given + peak_bytes(forward_and_backward(found, case, inputs), "cpu")


@pytest.mark.parametrize("provider", ["reference", "products", "KD", "DIST"])
@pytest.mark.parametrize("case", [Case("wide", 64, 1600), Case("tall", 800, 400, class_side=False)])
def test_a_smaller_call_predicts_the_memory_of_a_larger_one(provider: str, case: Case) -> None:
    expected, true = fitting.expected_bytes(provider, case, "cpu"), measured(provider, case)
    # Everything is taken to grow by 64, as matrices do, and vectors grow by 8: each is counted 8 times. At most five float32
    # vectors of each side are in memory at once.
    vectors = 5 * 4 * (case.samples + case.classes)
    assert true <= expected <= true + 7 * vectors


def test_the_torch_backend_is_never_underestimated() -> None:
    case = Case("wide", 64, 1600)
    assert fitting.expected_bytes("torch", case, "cpu") >= measured("torch", case)


def test_the_compiled_definition_is_expected_to_need_as_much_as_the_definition() -> None:
    case = Case("wide", 64, 1600)
    assert fitting.expected_bytes("compiled", case, "cpu") == fitting.expected_bytes("reference", case, "cpu")


def test_a_shortage_states_needed_and_available_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("large", 256, 21841)
    monkeypatch.setattr(fitting, "expected_bytes", lambda *_: 12_340_000_000)
    monkeypatch.setattr(fitting, "available_bytes", lambda _: 12_000_000_000)
    assert fitting.shortage("reference", case, "cpu") == "needs about 12.3 GB of 12.0 GB available"
    # A call may take only a share of the available memory.
    monkeypatch.setattr(fitting, "available_bytes", lambda _: 13_000_000_000)
    assert fitting.shortage("reference", case, "cpu") != ""
    monkeypatch.setattr(fitting, "available_bytes", lambda _: 14_000_000_000)
    assert fitting.shortage("reference", case, "cpu") == ""


def test_a_small_call_always_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "available_bytes", lambda _: 0)
    assert fitting.shortage("reference", Case("small", 256, 1000), "cpu") == ""


def test_available_memory_is_that_of_the_control_group_where_it_is_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "Path", lambda *_: tmp_path)
    everything = machine.available_bytes("cpu")
    assert everything > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100000\n")
    assert machine.available_bytes("cpu") > 1_000_000
    (tmp_path / "memory.max").write_text("1100000\n")
    assert machine.available_bytes("cpu") == 1_000_000


def test_the_ceilings_are_plausible_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.COPIED_BYTES, "cpu", 2**22)
    monkeypatch.setitem(machine.MULTIPLIED, "cpu", 128)
    copy, matmul = machine.measure_ceilings("cpu")
    # Between the rates of a slow disk and of the fastest accelerator.
    assert 1e8 < copy < 1e14
    assert 1e8 < matmul < 1e17


def test_the_description_has_everything_that_determines_speed() -> None:
    described = machine.describe("cpu")
    assert described["threads"] == str(torch.get_num_threads())
    assert described["PyTorch"] == torch.__version__
    assert {"CPU", "cores", "instructions", "memory", "Python"} <= set(described)
