"""The plots are written, and show what was measured and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgba

from benchmarks import plots
from benchmarks.cases import CLASS_SERIES, SAMPLE_SERIES, Case
from benchmarks.results import Measurement
from benchmarks.timing import Spread

LARGE, SMALL = Case("ImageNet-21k", 256, 21841), Case("CIFAR-100", 64, 100)


def measured(case: Case, provider: str, factor: float) -> Measurement:
    """A measurement whose ratio to autograd is not that of the medians, as on a machine whose speed drifts."""
    seconds = factor * 1e-6 * case.classes
    spread = Spread(0.9 * seconds, seconds, 1.2 * seconds)
    ratio = Spread(0.2 * factor, 0.25 * factor + 0.01, 0.3 * factor)
    return Measurement(case, provider, None, spread, ratio, peak_bytes=int(factor * 1000 * case.samples))


FACTORS = {"reference": 4.0, "compiled": 3.0, "torch": 2.0, "products": 1.0, "KD": 0.1, "DIST": 0.2}
SERIES = [measured(case, name, factor) for case in (*CLASS_SERIES, *SAMPLE_SERIES) for name, factor in FACTORS.items()]
NAMED = [measured(case, name, factor) for case in (SMALL, LARGE) for name, factor in FACTORS.items()]


def skip(measurements: list[Measurement], provider: str, case: Case) -> list[Measurement]:
    return [
        Measurement(case, provider, skipped="needs more") if (one.provider, one.case) == (provider, case) else one
        for one in measurements
    ]


def test_both_plots_are_written(tmp_path: Path) -> None:
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


def bars(panel: Any) -> list[float]:
    return [bar.get_width() for bar in panel.patches]


def texts(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.texts]


def dashed(panel: Any) -> list[float]:
    return [line.get_xdata()[0] for line in panel.get_lines() if line.get_linestyle() == "--"]


def without_reference(measurements: list[Measurement], case: Case) -> list[Measurement]:
    """The measurements where autograd does not fit in ``case``."""
    skipped = skip(measurements, "reference", case)
    return [replace(one, to_reference=None) if one.case == case else one for one in skipped]


def test_bars_are_the_paired_ratios_of_times_and_the_ratios_of_bytes() -> None:
    time, memory = plots.plot_cases(NAMED, "a machine").axes
    assert bars(time) == pytest.approx([1.01, 0.76, 0.51, 0.035, 0.06] * 2)
    assert bars(memory) == pytest.approx([1.0, 0.75, 0.5, 0.025, 0.05] * 2)


def test_a_bar_is_labelled_with_ratio_and_absolute_value_and_a_simpler_loss_with_its_name() -> None:
    time, memory = plots.plot_cases(NAMED, "a machine").axes
    small = ["1.01  (400 µs)", "0.76  (300 µs)", "0.51  (200 µs)", "KD 0.04", "DIST 0.06"]
    assert texts(time)[:5] == small
    assert texts(memory)[:3] == ["1.00  (256 kB)", "0.75  (192 kB)", "0.50  (128 kB)"]


def test_quartiles_of_a_ratio_are_a_line_over_its_bar() -> None:
    time, _ = plots.plot_cases(NAMED, "a machine").axes
    assert list(time.get_lines()[1].get_xdata()) == pytest.approx([0.6, 0.9])


def test_products_are_a_dashed_mark_and_no_bar() -> None:
    time, memory = plots.plot_cases(NAMED, "a machine").axes
    assert dashed(time) == pytest.approx([0.26, 0.26])
    assert dashed(memory) == pytest.approx([0.25, 0.25])


def test_the_label_of_a_bar_that_ends_before_the_mark_of_the_products_is_behind_the_mark() -> None:
    lean = [replace(one, peak_bytes=1) if one.provider == "torch" else one for one in NAMED]
    _, memory = plots.plot_cases(lean, "a machine").axes
    assert memory.texts[1].xy[0] == pytest.approx(0.75)
    assert memory.texts[2].xy[0] == pytest.approx(0.25)


def test_a_case_in_which_autograd_does_not_fit_has_text_in_place_of_bars() -> None:
    time, memory = plots.plot_cases(without_reference(NAMED, LARGE), "a machine").axes
    assert [label.get_text() for label in time.get_yticklabels()] == ["CIFAR-100\n64 x 100", "ImageNet-21k\n256 x 21841"]
    for panel, figure in ((time, "43.7 ms"), (memory, "512 kB")):
        assert len(bars(panel)) == 5
        assert len(dashed(panel)) == 1
        assert texts(panel)[5] == "autograd: does not fit"
        assert texts(panel)[7:] == [f"bickd_kernels, torch: {figure}"]


def test_a_provider_that_was_skipped_has_no_bar() -> None:
    time, _ = plots.plot_cases(skip(NAMED, "compiled", LARGE), "a machine").axes
    assert len(time.patches) == 9
    assert texts(time)[6] == "torch.compile: does not fit"


@pytest.mark.parametrize("plot", [plots.plot_series, plots.plot_cases])
def test_the_machine_and_every_implementation_are_in_the_legend(plot: Callable[..., Any]) -> None:
    (legend,) = plot([*SERIES, *NAMED], "a machine").legends
    assert legend.get_title().get_text().startswith("a machine. ")
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:4] == ["autograd", "torch.compile", "bickd_kernels, torch", "its products alone"]


def test_a_provider_has_one_colour_in_both_plots() -> None:
    lines = plots.plot_series(SERIES, "a machine").axes[0].get_lines()
    patches = plots.plot_cases(NAMED, "a machine").axes[0].patches
    assert [to_rgba(line.get_color()) for line in lines[:3]] == [bar.get_facecolor() for bar in patches[:3]]


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [(plots._seconds, 2.0, "2 s"), (plots._seconds, 0.01, "10 ms"), (plots._seconds, 1e-4, "100 µs"),
     (plots._seconds, 1e-8, "0.01 µs"), (plots._bytes, 1e9, "1 GB"), (plots._bytes, 5e5, "500 kB"),
     (plots._seconds, 0.04368, "43.7 ms"), (plots._seconds, 0.9996, "1 s"), (plots._bytes, 999.4e6, "999 MB")],
)  # fmt: skip
def test_ticks_have_readable_units(unit: object, value: float, expected: str) -> None:
    assert unit(value, 0) == expected  # type: ignore[operator]
