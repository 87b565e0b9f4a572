"""Counts of instructions: the libraries and calls that are counted, and the errors where nothing can be counted."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import instructions
from benchmarks.cases import Case
from benchmarks.instructions import CALLS, ROUNDS, UnavailableError, count, count_in_libraries

CASE = Case("counted", 6, 5)

ANNOTATED = """\
Events recorded:  Ir
Ir
1,002,006,513  PROGRAM TOTALS

1,000,000,000  ???:at::native::add<float>(at::Tensor const&, [abi]) [/somewhere/torch/lib/libtorch_cpu.so]
    2,000,000  ???:THPVariable_mul(_object*) [/somewhere/torch/lib/libtorch_python.so]
        4,000  ./malloc/malloc.c:malloc [/usr/lib/libc.so.6]
          500  ???:c10::intrusive [/somewhere/torch/lib/libc10.so]
           10  ???:operator new(unsigned long) [/usr/lib/libstdc++.so.6.0.30]
            2  ???:__tls_get_addr [/usr/lib/ld-linux-x86-64.so.2]
            1  ???:expf [/usr/lib/libm.so.6]
       70,000  ???:_PyEval_EvalFrameDefault [/usr/lib/libpython3.11.so.1.0]
        8,000  Python/ceval.c:PyObject_Vectorcall
        9,000  ???:0x00001 [???]
"""


def test_pytorch_and_the_libraries_below_it_are_counted_and_the_interpreter_is_not() -> None:
    assert count_in_libraries(ANNOTATED) == 1_002_004_513


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The installed tools: all of them, unless a test removes one."""
    installed = set(instructions.TOOLS)
    monkeypatch.setattr(instructions.shutil, "which", lambda tool: tool if tool in installed else None)
    return installed


@pytest.mark.parametrize("tool", instructions.TOOLS)
def test_a_missing_tool_is_named_with_its_package(tool: str, tools: set[str]) -> None:
    tools.remove(tool)
    with pytest.raises(UnavailableError, match=f"^{tool} not found; .* package valgrind"):
        count(CASE, ["torch"])


def test_a_program_that_fails_under_valgrind_is_an_error_with_its_output(
    tools: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "unrecognised instruction")
    monkeypatch.setattr(instructions.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="unrecognised instruction") as raised:
        count(CASE, ["torch"])
    # The check must not be skipped, as on a machine without valgrind.
    assert not isinstance(raised.value, UnavailableError)


def test_dumps_belong_to_the_providers_in_turn_and_counts_are_per_call(
    tools: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process runs; dump n holds 1000 n instructions."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        printed = ""
        if command[0] == "callgrind_annotate":
            part = int(Path(command[-1]).suffix.removeprefix("."))
            printed = f"{1000 * part:,}  ???:f [/lib/libtorch_cpu.so]\n"
        return subprocess.CompletedProcess(command, 0, printed, "")

    monkeypatch.setattr(instructions.subprocess, "run", run)
    assert ROUNDS == 3
    assert count(CASE, ["torch", "reference"]) == {
        "torch": [1000 / CALLS, 3000 / CALLS, 5000 / CALLS],
        "reference": [2000 / CALLS, 4000 / CALLS, 6000 / CALLS],
    }


def test_calls_are_counted_after_a_first_call_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    loss = instructions.bilateral_loss

    def noting(event: str) -> Callable[..., None]:
        return lambda *_, **__: events.append(event)

    def called(*batch: Any, backend: str) -> Any:
        events.append(backend)
        assert batch[0].shape == (6, 5)
        assert batch[0].grad is None
        return loss(*batch, backend=backend)

    monkeypatch.setattr(instructions, "bilateral_loss", called)
    monkeypatch.setattr(instructions.subprocess, "run", noting("instrument"))
    monkeypatch.setattr(instructions.torch._C, "_valgrind_toggle", noting("start"))
    monkeypatch.setattr(instructions.torch._C, "_valgrind_toggle_and_dump_stats", noting("dump"))
    monkeypatch.setattr(instructions.gc, "disable", noting("no collector"))
    monkeypatch.setattr("sys.argv", ["instructions", "6", "5", "torch", "reference"])
    instructions._main()
    one_round = [
        event
        for backend in ("torch", "reference")
        for event in (backend, "start", *[backend] * CALLS, "dump")
    ]  # fmt: skip
    assert events == ["torch", "reference", "no collector", "instrument", *ROUNDS * one_round]
