"""The forecast against values computed by hand for a GPU of round numbers, and what its tables say."""

from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from benchmarks import forecast as module
from benchmarks import occupancy
from benchmarks.devices import DEVICES, Device, Multiprocessor, known_device
from benchmarks.forecast import (
    DTYPES,
    SHAPES,
    Forecast,
    Launch,
    floor,
    forecast,
    forecast_step,
    kernels,
    launches_of,
    launches_table,
    occupancy_table,
    table,
)

TOY = Device("toy", "TOY", "sm_0", 1e9, 1e12, 1e11, 10, Multiprocessor(1024))
"""1000 bytes a microsecond; 10^6 flops of float16 or 10^5 of float32."""

PERFORMANCE = Path(__file__).parents[2] / "docs" / "performance.md"


def rows_of(printed: Table) -> list[list[str]]:
    """The cells of a table as it is printed, headings and the line below them included."""
    console = Console(width=200, highlight=False)
    with console.capture() as capture:
        console.print(printed)
    return cells_in(capture.get())


def cells_in(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_a_launch_that_moves_more_than_it_computes_is_bound_by_its_bytes() -> None:
    assert floor(Launch("copy", 5000, 10**6), TOY, TOY.float16_peak) == pytest.approx(5e-6)


def test_a_launch_that_computes_more_than_it_moves_is_bound_by_its_flops() -> None:
    product = Launch("product", 1000, 3 * 10**6)
    assert floor(product, TOY, TOY.float16_peak) == pytest.approx(3e-6)
    assert floor(product, TOY, TOY.float32_peak) == pytest.approx(30e-6)


@pytest.mark.parametrize(("programs", "microseconds"), [(1, 50), (5, 10), (10, 5), (11, 5), (1000, 5), (None, 5)])
def test_fewer_programs_than_multiprocessors_have_their_share_of_the_gpu(programs: int | None, microseconds: float) -> None:
    for launch in (Launch("copy", 5000, 0, programs), Launch("product", 0, 5 * 10**6, programs)):
        assert floor(launch, TOY, TOY.float16_peak) == pytest.approx(1e-6 * microseconds)


@pytest.mark.parametrize(("provider", "microseconds"), [("triton", 5 + 3), ("reference", 5 + 30), ("compiled", 5 + 30)])
def test_a_step_takes_its_floors_at_the_rate_of_its_products_and_a_cost_for_each_launch(
    provider: str, microseconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAUNCH_SECONDS", 7e-6)
    launches = [Launch("copy", 5000, 0), Launch("product", 1000, 3 * 10**6)]
    step = forecast_step(2, 3, "float32", provider, launches, TOY)
    assert step.microseconds == pytest.approx(microseconds + 2 * 7)
    assert (step.launches, step.megabytes, step.gigaflop) == (2, 0.006, 0.003)
    assert (step.samples, step.classes, step.dtype, step.provider, step.device) == (2, 3, "float32", provider, "toy")


def test_the_kernels_are_those_for_the_dtype_of_the_logits() -> None:
    narrow, wide = (kernels(256, 1000, dtype) for dtype in ("bfloat16", "float32"))
    # Two networks' logits of 2 bytes more, and three products for one.
    assert wide[0].compulsory - narrow[0].compulsory == 2 * 2 * 256 * 1000
    assert [work.flops for work in wide] == [3 * work.flops for work in narrow]


def test_the_reference_is_counted_by_its_operations_and_has_the_products_of_the_definition() -> None:
    launches = launches_of("reference", 64, 100, "float32")
    assert len(launches) > 100
    assert sum(launch.flops for launch in launches) == 4 * 64 * 100 * (64 + 100)
    assert {launch.programs for launch in launches} == {None}


def test_there_is_a_forecast_of_everything_but_of_what_is_too_large_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "launches_of", lambda *_: [Launch("copy", 1, 0)])
    found = [(one.samples, one.classes, one.dtype, one.provider, one.device) for one in forecast()]
    assert len(found) == len(set(found)) == 3 * (5 * 2 * 3 - 2)
    assert {(samples, classes) for samples, classes, _, provider, _ in found if provider == "compiled"} == set(SHAPES[:4])
    assert {device for *_, device in found} == {"A100 SXM 80 GB", "H100 SXM", "B200"}


def test_a_gpu_is_known_by_its_whole_name() -> None:
    device = known_device("NVIDIA H100 80GB HBM3")
    assert device is not None
    assert device.name == "H100 SXM"
    for name in ("NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", ""):
        assert known_device(name) is None


def test_the_table_has_a_row_for_each_provider_and_says_that_nothing_was_measured() -> None:
    forecasts = [
        Forecast(2, 3, "float32", "triton", "a", 1.2, 4, 5.0, 0.5),
        Forecast(2, 3, "float32", "triton", "b", 10.0, 4, 5.0, 0.5),
        Forecast(2, 3, "float32", "reference", "b", 30.0, 40, 50.0, 0.25),
    ]
    printed = table(forecasts)
    assert "not measured" in str(printed.title)
    assert rows_of(printed)[0] == ["B, C", "logits", "provider", "launches", "MB", "Gflop", "a, us", "b, us"]
    assert rows_of(printed)[2:] == [
        ["2, 3", "float32", "triton", "4", "5.00", "0.500", "1.2", "10.0"],
        ["2, 3", "float32", "reference", "40", "50.00", "0.250", "", "30.0"],
    ]


def test_waves_are_programs_over_those_that_run_at_a_time() -> None:
    rows = {tuple(row[:3]): row[3:] for row in rows_of(occupancy_table())}
    # 16 x 16 tiles of 64 on each side. 4 programs of 4 warps have 128 registers a thread; 108, 132 and 148 multiprocessors.
    assert rows["1024, 1000", "bfloat16", "similarity_tiles"] == ["512", "4", "1.19", "4", "0.97", "4", "0.86"]


def test_without_the_reports_of_the_compiler_only_the_occupancy_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(launches_table())
    monkeypatch.setattr(occupancy, "REPORTS", tmp_path / "absent")
    assert not occupancy_table().rows
    assert rows_of(launches_table()) == expected


def test_the_documentation_has_the_tables_of_the_kernels_as_they_are_printed() -> None:
    documented = cells_in(PERFORMANCE.read_text())
    steps = [
        forecast_step(*shape, dtype, "triton", launches_of("triton", *shape, dtype), device)
        for shape in SHAPES
        for dtype in DTYPES
        for device in DEVICES
    ]
    for printed in (launches_table(), occupancy_table(), table(steps)):
        rows = [row for row in rows_of(printed) if not row[0].startswith("-")]
        assert [row for row in rows if row not in documented] == []
