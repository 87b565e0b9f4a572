"""The pictures are written, and show what was measured and nothing else."""

from pathlib import Path

import pytest

from benchmarks import plots
from benchmarks.cases import CLASS_SERIES, SAMPLE_SERIES, Case
from benchmarks.results import Measurement
from benchmarks.timing import Spread

LARGE, SMALL = Case("ImageNet-21k", 256, 21841), Case("CIFAR-100", 64, 100)


def measured(case: Case, provider: str, factor: float) -> Measurement:
    seconds = factor * 1e-6 * case.classes
    spread = Spread(0.9 * seconds, seconds, 1.2 * seconds)
    return Measurement(case, provider, forward_and_backward=spread, peak_bytes=int(factor * 1000 * case.samples))


FACTORS = {"reference": 4.0, "compiled": 3.0, "tiled": 2.0, "products": 1.0, "KD": 0.1, "DIST": 0.2}
SERIES = [measured(case, name, factor) for case in (*CLASS_SERIES, *SAMPLE_SERIES) for name, factor in FACTORS.items()]
NAMED = [measured(case, name, factor) for case in (SMALL, LARGE) for name, factor in FACTORS.items()]


def skip(measurements: list[Measurement], provider: str, case: Case) -> list[Measurement]:
    return [
        Measurement(case, provider, skipped="needs more") if (one.provider, one.case) == (provider, case) else one
        for one in measurements
    ]


def test_both_pictures_are_written(tmp_path: Path) -> None:
    paths = plots.draw([*NAMED, *SERIES], tmp_path, "a machine")
    assert [path.name for path in paths] == ["scaling.png", "cases.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_every_provider_has_a_line_through_its_medians_in_every_panel() -> None:
    panels = plots.plot_series(SERIES, "a machine").axes
    for panel in panels:
        assert [line.get_label() for line in panel.get_lines()] == [plots.LABELS.get(name, name) for name in FACTORS]
    line = panels[0].get_lines()[2]
    assert list(line.get_xdata()) == [case.classes for case in CLASS_SERIES]
    assert list(line.get_ydata()) == pytest.approx([2e-6 * case.classes for case in CLASS_SERIES])
    memory = panels[3].get_lines()[0]
    assert list(memory.get_ydata()) == [4000 * case.samples for case in SAMPLE_SERIES]


def test_a_line_leaves_out_what_was_skipped() -> None:
    panels = plots.plot_series(skip(SERIES, "reference", CLASS_SERIES[-1]), "a machine").axes
    assert list(panels[0].get_lines()[0].get_xdata()) == [case.classes for case in CLASS_SERIES[:-1]]


def test_bars_are_relative_to_autograd_and_products_a_mark() -> None:
    time, memory = plots.plot_cases(NAMED, "a machine").axes
    for panel in (time, memory):
        assert [bar.get_width() for bar in panel.patches] == pytest.approx([0.75, 0.5] * 2)
        marks = [line for line in panel.get_lines() if line.get_linestyle() == "--"]
        assert [line.get_xdata()[0] for line in marks] == pytest.approx([0.25, 0.25])


def test_a_case_without_autograd_has_no_bars() -> None:
    time, _ = plots.plot_cases(skip(NAMED, "reference", LARGE), "a machine").axes
    assert len(time.patches) == 2
    assert [label.get_text() for label in time.get_yticklabels()] == ["CIFAR-100\n64 x 100"]


def test_a_provider_that_was_skipped_has_no_bar() -> None:
    time, _ = plots.plot_cases(skip(NAMED, "compiled", LARGE), "a machine").axes
    assert len(time.patches) == 3


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [(plots._seconds, 2.0, "2 s"), (plots._seconds, 0.01, "10 ms"), (plots._seconds, 1e-4, "100 µs"),
     (plots._seconds, 1e-8, "0.01 µs"), (plots._bytes, 1e9, "1 GB"), (plots._bytes, 5e5, "500 kB")],
)  # fmt: skip
def test_ticks_have_readable_units(unit: object, value: float, expected: str) -> None:
    assert unit(value, 0) == expected  # type: ignore[operator]
