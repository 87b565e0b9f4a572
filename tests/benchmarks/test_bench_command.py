"""What ``python -m benchmarks`` measures, prints and writes, on tiny cases."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import benchmarks.__main__ as command
from benchmarks import measure, report
from benchmarks.cases import Case
from benchmarks.host_cost import Cost
from benchmarks.machine import Ceilings
from benchmarks.measure import measure_case, measure_series
from benchmarks.providers import Provider, providers
from benchmarks.results import Measurement
from benchmarks.step_share import Share
from benchmarks.timing import Spread

SMALL = Case("CIFAR-100", 4, 6)
CLASSES = tuple(Case("classes", 4, classes) for classes in (5, 10, 20))
SAMPLES = tuple(Case("samples", samples, 6) for samples in (4, 8, 16))


def without_compiler(case: Case, device: str, *, any_shape: bool = False) -> list[Provider]:
    """The providers without the compiled one: compiling takes longer than all other parts of these tests."""
    return [provider for provider in providers(case, device) if provider.name != "compiled"]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(measure, "SECONDS_IN_SERIES", 0.0)
    monkeypatch.setattr(measure, "providers", without_compiler)


def test_a_case_has_times_memory_and_ratios_of_every_provider() -> None:
    measured = {one.provider: one for one in measure_case(SMALL, "cpu")}
    assert list(measured) == ["reference", "torch", "products", "KD", "DIST"]
    for one in measured.values():
        assert one.forward is not None
        assert one.forward_and_backward is not None
        assert one.to_reference is not None
        assert one.peak_bytes is not None
        assert one.peak_bytes >= 4 * 4 * 6
    assert measured["reference"].to_reference == Spread(1.0, 1.0, 1.0) == measured["products"].to_products
    assert measured["torch"].to_products is not None
    assert measured["KD"].to_products is None


def test_a_provider_that_does_not_fit_is_listed_with_the_reason_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "shortage", lambda name, *_: "needs about 9 GB" if name == "reference" else "")
    measured = {one.provider: one for one in measure_case(SMALL, "cpu")}
    assert measured["reference"] == Measurement(SMALL, "reference", skipped="needs about 9 GB")
    assert measured["torch"].forward_and_backward is not None
    assert measured["torch"].to_reference is None


def test_a_series_has_a_measurement_of_every_size() -> None:
    sizes = list(measure_series(CLASSES, "cpu"))
    assert [{one.case for one in measured} for measured in sizes] == [{case} for case in CLASSES]
    assert all(one.forward_and_backward is not None and one.forward is None for measured in sizes for one in measured)


def rows_of(measurements: list[Measurement]) -> list[list[str]]:
    console = Console(width=170, record=True)
    console.print(report.table(measurements, Ceilings(copy=1e9, matmul=1e9)))
    lines = [line for line in console.export_text().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_table_has_the_rates_of_compulsory_bytes_and_products() -> None:
    case = Case("ImageNet", 10, 100)
    seconds = Spread(0.9e-3, 1e-3, 1.3e-3)
    ratio = Spread(0.5, 0.5, 0.5)
    ours = Measurement(case, "torch", seconds, seconds, ratio, Spread(1.5, 1.5, 1.5), peak_bytes=2_500_000)
    # 12 bytes a logit and 8 a target: 12080 in a millisecond. 4 * 10 * 100 * 110 flops.
    assert rows_of([ours]) == [
        ["ImageNet 10 x 100", "torch", "1 ± 20%", "1 ± 20%", "0.50", "1.50", "2.5", "0.0121 (1%)", "0.44 (44%)"]
    ]


def test_a_simpler_loss_has_no_rate_of_products_it_does_not_compute() -> None:
    once = Spread(1e-3, 1e-3, 1e-3)
    (row,) = rows_of([Measurement(SMALL, "KD", once, once, peak_bytes=1000)])
    assert row[2:7] == ["1", "1", "-", "-", "0.001"]
    assert row[-1] == "-"


def test_the_table_states_why_a_provider_was_not_run() -> None:
    (row,) = rows_of([Measurement(SMALL, "reference", skipped="too large")])
    assert row[:3] == ["CIFAR-100 4 x 6", "reference", "not run: too large"]


def test_the_command_prints_all_tables_and_writes_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CASES", (SMALL,))
    monkeypatch.setattr(command, "CLASS_SERIES", CLASSES)
    monkeypatch.setattr(command, "SAMPLE_SERIES", SAMPLES)
    monkeypatch.setattr(command, "measure_ceilings", lambda _: Ceilings(1e10, 1e11))
    share = Share("bickd", Spread(1.0, 1.0, 1.0), Spread(0.1, 0.1, 0.1), Spread(0.1, 0.1, 0.1))
    monkeypatch.setattr(command.step_share, "measure", lambda *_: [share])
    once = Spread(0.1, 0.1, 0.1)
    monkeypatch.setattr(command.host_cost, "measure_parts", lambda: [Cost("a training step", once, once)])
    console = Console(width=170, record=True)
    command.bench("cpu", tmp_path / "bench", console)

    text = console.export_text()
    for heading in (
        "Forward, and forward and backward",
        "Growth of forward and backward",
        "bickd",
        "the host",
        "PyTorch",
    ):
        assert heading in text
    written = json.loads((tmp_path / "bench" / "results.json").read_text())
    assert list(written) == ["machine", "ceilings", "cases", "series", "exponents", "step_shares", "host_cost"]
    assert written["ceilings"] == {"copy": 1e10, "matmul": 1e11}
    assert written["cases"][0]["case"] == SMALL._asdict()
    assert written["cases"][0]["forward_and_backward"].keys() == {"low", "median", "high"}
    assert len(written["series"]) == 5 * (len(CLASSES) + len(SAMPLES))
    assert written["step_shares"][0]["share"]["median"] == 0.1
    assert sorted(path.name for path in (tmp_path / "bench").iterdir()) == ["cases.png", "results.json", "scaling.png"]
