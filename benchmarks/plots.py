"""The pictures of ``make bench``: how time and memory grow, and how the providers stand on the named cases."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.cases import Case
from benchmarks.results import Measurement
from benchmarks.timing import Spread
from training.report import save_figure

matplotlib.use("Agg")

COLOURS = {
    "reference": "#D55E00",
    "compiled": "#E69F00",
    "tiled": "#0072B2",
    "triton": "#009E73",
    "products": "#000000",
}
"""Of Okabe and Ito's palette, which colour-blind readers can tell apart; simpler losses are grey."""

GREY = "0.55"

GREY_STYLES = ("-.", ":", (0, (1, 1)), (0, (3, 1, 1, 1)))

LABELS = {
    "reference": "autograd",
    "compiled": "torch.compile",
    "tiled": "bickd_kernels, torch",
    "triton": "bickd_kernels, Triton",
    "products": "its products alone",
}

NOT_COMPARED = ("reference", "products")
"""Every bar is relative to the first, and the second is a line."""


def draw(measurements: Sequence[Measurement], folder: Path, machine: str) -> list[Path]:
    """Writes scaling.png and cases.png into the folder; ``machine`` is a line that says where the figures come from."""
    paths = {folder / "scaling.png": plot_series, folder / "cases.png": plot_cases}
    for path, plot in paths.items():
        with plt.rc_context({"font.size": 13, "axes.spines.top": False, "axes.spines.right": False}):
            save_figure(plot(measurements, machine), path, dpi=150)
    return list(paths)


def plot_series(measurements: Sequence[Measurement], machine: str) -> Any:
    """Time and memory against classes and against samples, on logarithmic axes; quartiles as a band."""
    figure, panels = plt.subplots(2, 2, figsize=(13, 9.5), layout="constrained", sharex="col", sharey="row")
    columns: tuple[tuple[str, str, Callable[[Case], int]], ...] = (
        ("classes", "classes C (256 samples)", lambda case: case.classes),
        ("samples", "samples B (1000 classes)", lambda case: case.samples),
    )
    for column, (series, label, size) in enumerate(columns):
        of_series = [measurement for measurement in measurements if measurement.case.name == series]
        for number, provider in enumerate(dict.fromkeys(measurement.provider for measurement in of_series)):
            own = [measurement for measurement in of_series if measurement.provider == provider]
            _line(panels[0, column], [(size(one.case), one.forward_and_backward) for one in own], provider, number)
            in_bytes = [(size(one.case), one.peak_bytes) for one in own]
            _line(panels[1, column], [(x, None if y is None else Spread(y, y, y)) for x, y in in_bytes], provider, number)
        panels[1, column].set_xlabel(label)
        _sizes(panels[1, column], sorted({size(measurement.case) for measurement in of_series}))
    for axes, label, unit in (
        (panels[0, 0], "forward and backward", _seconds),
        (panels[1, 0], "memory at the peak", _bytes),
    ):
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(FuncFormatter(unit))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in panels.flat:
        axes.grid(alpha=0.25)
    figure.suptitle("The bilateral loss and its gradient, float32")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.supxlabel(f"{machine}. Bands: quartiles. Grey: simpler losses.", fontsize=10, color="0.4")
    return figure


def plot_cases(measurements: Sequence[Measurement], machine: str) -> Any:
    """Time and memory relative to autograd for each named case; the products alone as a line across the bars."""
    named = [measurement for measurement in measurements if measurement.case.name not in ("classes", "samples")]
    cases = [case for case in dict.fromkeys(one.case for one in named) if _of(named, case, "reference") is not None]
    providers = [name for name in COLOURS if name not in NOT_COMPARED and any(one.provider == name for one in named)]
    figure, panels = plt.subplots(1, 2, figsize=(13, 2.2 + 0.75 * len(cases)), layout="constrained", sharey=True)
    for axes, quantity, label in ((panels[0], _time, "time / autograd's"), (panels[1], _memory, "memory / autograd's")):
        for row, case in enumerate(cases):
            _bars(axes, row, case, providers, named, quantity)
        axes.axvline(1.0, color=COLOURS["reference"], linewidth=2, label=LABELS["reference"] if axes is panels[0] else None)
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25, axis="x")
    names = [f"{case.name}\n{case.samples} x {case.classes}" for case in cases]
    panels[0].set_yticks(range(len(cases)), names)
    panels[0].invert_yaxis()
    panels[0].set_title(machine, loc="left", fontsize=10, color="0.4")
    figure.suptitle("The bilateral loss and its gradient, float32: less is better")
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=len(unique), frameon=False)
    return figure


def _line(axes: Any, points: list[tuple[int, Spread | None]], provider: str, number: int) -> None:
    """A provider's line; what was skipped is left out."""
    drawn = [(size, value) for size, value in points if value is not None]
    if not drawn:
        return
    sizes, values = zip(*drawn, strict=True)
    known = provider in COLOURS
    axes.loglog(
        sizes,
        [value.median for value in values],
        color=COLOURS.get(provider, GREY),
        linestyle="--" if provider == "products" else "-" if known else GREY_STYLES[number % len(GREY_STYLES)],
        linewidth=2.5 if known else 1.5,
        marker="o" if known and provider != "products" else None,
        label=LABELS.get(provider, provider),
    )
    low, high = [value.low for value in values], [value.high for value in values]
    axes.fill_between(sizes, low, high, color=COLOURS.get(provider, GREY), alpha=0.2, linewidth=0)


def _bars(
    axes: Any,
    row: int,
    case: Case,
    providers: list[str],
    named: list[Measurement],
    quantity: Callable[[Measurement], float | None],
) -> None:
    """The bars of one case, and the mark of its products."""
    reference = _of(named, case, "reference")
    base = None if reference is None else quantity(reference)
    if base is None:
        return
    height = 0.8 / len(providers)
    for number, provider in enumerate(providers):
        measurement = _of(named, case, provider)
        value = None if measurement is None else quantity(measurement)
        if value is None:
            continue
        middle = row + (number - (len(providers) - 1) / 2) * height
        axes.barh(middle, value / base, 0.9 * height, color=COLOURS[provider], label=LABELS[provider])
        axes.annotate(
            f"{value / base:.2f}", (value / base, middle), (4, 0), textcoords="offset points", va="center", size=11
        )
    products = _of(named, case, "products")
    value = None if products is None else quantity(products)
    if value is not None:
        ends = [row - 0.42, row + 0.42]
        axes.plot([value / base] * 2, ends, color=COLOURS["products"], linestyle="--", linewidth=2, label=LABELS["products"])


def _of(measurements: list[Measurement], case: Case, provider: str) -> Measurement | None:
    found = [one for one in measurements if (one.case, one.provider) == (case, provider) and not one.skipped]
    return found[0] if found else None


def _time(measurement: Measurement) -> float | None:
    return None if measurement.forward_and_backward is None else measurement.forward_and_backward.median


def _memory(measurement: Measurement) -> float | None:
    return measurement.peak_bytes


def _sizes(axes: Any, sizes: list[int]) -> None:
    """Ticks at the sizes that were measured."""
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())


def _seconds(value: float, _: int) -> str:
    return _scaled(value, ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")))


def _bytes(value: float, _: int) -> str:
    return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """The value in the largest unit that it reaches."""
    scale, unit = next(((scale, unit) for scale, unit in units if value >= 0.999 * scale), units[-1])
    return f"{value / scale:g} {unit}"
