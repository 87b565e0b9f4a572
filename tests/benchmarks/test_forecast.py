"""The tables of ``benchmarks.forecast``: the content of their rows, and their place in docs/performance.md."""

from pathlib import Path

import pytest

from benchmarks import forecast as module
from benchmarks.devices import DEVICES
from benchmarks.dispatched import Operation
from benchmarks.forecast import (
    BEGIN,
    DTYPES,
    END,
    SHAPES,
    Forecast,
    Timed,
    counted,
    forecast,
    kernels,
    launches_table,
    lines,
    providers_table,
    replaced,
)

PERFORMANCE = Path(__file__).parents[2] / "docs" / "performance.md"

LAUNCHES = [
    Timed(2, 3, "float32", "first", 4, (4e-6, 1.2345e-6), 12_345, 100, 80, 30, 20),
    Timed(2, 3, "float32", "second", 1, (2.5e-3, 20e-6), 500, 60, 60, 60, 60),
]


def cells_in(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_a_row_has_the_times_and_counts_of_a_launch() -> None:
    heading, _, first, second = cells_in("\n".join(launches_table(LAUNCHES)))
    times = [f"{device.name}, us" for device in DEVICES]
    assert heading[:7] == ["B, C", "logits", "launch", "launches", "programs", *times]
    assert first == ["2, 3", "float32", "first", "1", "4", "4", "1.23", "12", "100", "80", "30", "20"]
    assert second[5:7] == ["2500", "20"]


def test_the_launches_of_panels_are_one_row() -> None:
    panel = LAUNCHES[0]._replace(programs=10)
    _, _, *rows = cells_in("\n".join(launches_table([*LAUNCHES, panel, panel, LAUNCHES[1]])))
    assert [row[2:6] for row in rows] == [
        ["first", "1", "4", "4"],
        ["second", "1", "1", "2500"],
        ["first", "2", "20", "8"],
        ["second", "1", "1", "2500"],
    ]


def test_a_step_is_the_sum_of_its_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "timed_step", lambda *_: LAUNCHES)
    steps = forecast([(2, 3)])
    assert [step.device for step in steps] == 2 * [device.name for device in DEVICES]
    flops = sum(work.flops for work in kernels(2, 3, "float32")) / 1e9
    times = [(step.microseconds, step.launches, step.megabytes, step.gigaflop) for step in steps[:2]]
    assert times == [
        (pytest.approx(2504.0), 2, pytest.approx(32e-6 * 250), flops),
        (pytest.approx(21.2345), 2, pytest.approx(32e-6 * 250), flops),
    ]
    assert isinstance(steps[0], Forecast)


def test_the_kernels_are_those_for_the_dtype_of_the_logits() -> None:
    narrow, wide = (kernels(256, 1000, dtype) for dtype in ("bfloat16", "float32"))
    # The logits of both networks have 2 more bytes each, and three products replace one.
    assert wide[0].compulsory - narrow[0].compulsory == 2 * 2 * 256 * 1000
    assert [work.flops for work in wide] == [3 * work.flops for work in narrow]


def test_the_definition_is_counted_by_its_operations() -> None:
    operations = counted("reference", 64, 100, "float32")
    assert len(operations) > 100
    assert sum(operation.flops for operation in operations) == 4 * 64 * 100 * (64 + 100)


def test_the_command_prints_every_launch_and_every_provider_except_those_too_large_to_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "timed_step", lambda *step: [LAUNCHES[0]._replace(samples=step[0], classes=step[1])])
    monkeypatch.setattr(module, "counted", lambda *_: [Operation("copy", 3_000_000, 0)] * 5)
    printed = "\n".join(lines()).split("\n\n")
    assert len(cells_in(printed[0])) == 2 + len(SHAPES) * len(DTYPES)
    providers = cells_in(printed[1])[2:]
    assert providers == cells_in("\n".join(providers_table()))[2:]
    assert len(providers) == 2 * (2 * len(SHAPES) - 1)
    assert providers[0] == ["64, 100", "bfloat16", "reference", "5", "15.0"]


def test_the_tables_replace_those_of_the_page() -> None:
    assert replaced(f"a\n{BEGIN}\nold\n{END}\nb\n", "| new |") == f"a\n{BEGIN}\n| new |\n{END}\nb\n"
    with pytest.raises(ValueError, match="found no"):
        replaced("a page without marks", "| new |")


def test_the_page_has_every_step() -> None:
    rows = {tuple(row[:2]) for row in cells_in(PERFORMANCE.read_text().partition(BEGIN)[2].partition(END)[0])}
    assert {(f"{samples}, {classes}", dtype) for samples, classes in SHAPES for dtype in DTYPES} <= rows
