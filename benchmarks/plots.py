"""The plots of ``make bench``: growth of time and memory, and a comparison of the providers on the named cases."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.cases import Case
from benchmarks.results import Measurement
from benchmarks.timing import Spread
from training.report import save_figure

matplotlib.use("Agg")

Ratio = Callable[[Measurement, Measurement | None], Spread | None]
"""The ratio of a measurement to that of autograd on the same case."""

Text = Callable[[Measurement], str]
"""The absolute figure, with its unit."""

COLOURS = {
    "reference": "#D55E00",
    "compiled": "#E69F00",
    "torch": "#0072B2",
    "triton": "#009E73",
    "products": "#000000",
}
"""Colours from the palette of Okabe and Ito, which colour-blind readers can distinguish; simpler losses are grey."""

GREY = "0.55"

STYLES = {"products": "--", "KD": "-.", "DIST": ":", "Liger KL": (0, (7, 2)), "Liger JSD": (0, (3, 1, 1, 1, 1, 1))}
"""Line styles of providers that do not implement the loss."""

LABELS = {
    "reference": "autograd",
    "compiled": "torch.compile",
    "torch": "bickd_kernels, torch",
    "triton": "bickd_kernels, Triton",
    "products": "its products alone",
}

SLIDE = (13.3, 7.5)
"""Inches."""

LONGEST_LEGEND = 7
"""Maximum entries per row."""

LANE = 0.17
"""Minimum average height per bar, in inches."""


def draw(measurements: Sequence[Measurement], folder: Path, machine: str) -> list[Path]:
    """Writes scaling.png and cases.png into the folder; ``machine`` is a caption that describes the machine."""
    paths = {folder / "scaling.png": plot_series, folder / "cases.png": plot_cases}
    for path, plot in paths.items():
        with plt.rc_context({"font.size": 13, "axes.spines.top": False, "axes.spines.right": False}):
            save_figure(plot(measurements, machine), path, dpi=150)
    return list(paths)


def plot_series(measurements: Sequence[Measurement], machine: str) -> Any:
    """Time and memory against classes and against samples, on logarithmic axes; quartiles as a band."""
    figure, panels = plt.subplots(2, 2, figsize=SLIDE, layout="constrained", sharex="col", sharey="row")
    columns: tuple[tuple[str, str, Callable[[Case], int]], ...] = (
        ("classes", "classes C (256 samples)", lambda case: case.classes),
        ("samples", "samples B (1000 classes)", lambda case: case.samples),
    )
    for column, (series, label, size) in enumerate(columns):
        of_series = [measurement for measurement in measurements if measurement.case.name == series]
        for provider in dict.fromkeys(measurement.provider for measurement in of_series):
            own = [measurement for measurement in of_series if measurement.provider == provider]
            _line(panels[0, column], [(size(one.case), one.forward_and_backward) for one in own], provider)
            in_bytes = [(size(one.case), one.peak_bytes) for one in own]
            _line(panels[1, column], [(x, None if y is None else Spread(y, y, y)) for x, y in in_bytes], provider)
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
    _finish(figure, panels[0, 0], f"{machine}. Bands: quartiles. Grey: simpler losses.")
    return figure


def plot_cases(measurements: Sequence[Measurement], machine: str) -> Any:
    """Time and memory relative to autograd for each named case, with the absolute figure next to each bar.

    Where autograd was skipped there are no bars, only the absolute figures. A mark across the bars shows the matrix products
    alone.
    """
    named = [measurement for measurement in measurements if measurement.case.name not in ("classes", "samples")]
    cases = list(dict.fromkeys(one.case for one in named))
    bars = max((sum(one.case == case for one in named) for case in cases), default=0)
    size = SLIDE[0], max(SLIDE[1], 2.0 + LANE * bars * len(cases))
    figure, panels = plt.subplots(1, 2, figsize=size, layout="constrained", sharey=True)
    for axes, ratio, text, label in (
        (panels[0], _time_ratio, _time_text, "time / autograd's"),
        (panels[1], _memory_ratio, _memory_text, "memory / autograd's"),
    ):
        for row, case in enumerate(cases):
            measured = {one.provider: one for one in named if one.case == case}
            _bars(axes, row, measured, ratio, text)
        axes.set_xlabel(label)
        axes.margins(x=0.35, y=0.01)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25, axis="x")
    names = [f"{case.name}\n{case.samples} x {case.classes}" for case in cases]
    panels[0].set_yticks(range(len(cases)), names)
    panels[0].invert_yaxis()
    for axes in panels:
        axes.tick_params(axis="y", length=0)
    figure.suptitle("The bilateral loss and its gradient, float32: less is better")
    _finish(figure, panels[0], f"{machine}. Whiskers: quartiles. Grey: simpler losses.")
    return figure


def _finish(figure: Any, axes: Any, caption: str) -> None:
    """Adds one legend for all panels, in rows of even length under the caption."""
    handles, labels = axes.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    # Providers with a colour come first, in that order: bars are drawn case by case, in another one.
    order = [label for label in map(LABELS.__getitem__, COLOURS) if label in found]
    unique = {label: found[label] for label in dict.fromkeys([*order, *found])}
    rows = math.ceil(len(unique) / LONGEST_LEGEND)
    figure.legend(
        unique.values(),
        unique.keys(),
        loc="outside lower center",
        ncols=math.ceil(len(unique) / max(rows, 1)),
        frameon=False,
        columnspacing=1.5,
        title=caption,
        title_fontproperties={"size": 11},
    )


def _line(axes: Any, points: list[tuple[int, Spread | None]], provider: str) -> None:
    """Draws a provider's line, without skipped sizes."""
    drawn = [(size, value) for size, value in points if value is not None]
    if not drawn:
        return
    sizes, values = zip(*drawn, strict=True)
    marker = None if provider in STYLES else "o"
    axes.loglog(
        sizes, [value.median for value in values], marker=marker, label=LABELS.get(provider, provider), **_look(provider)
    )
    low, high = [value.low for value in values], [value.high for value in values]
    axes.fill_between(sizes, low, high, color=_look(provider)["color"], alpha=0.2, linewidth=0)


def _look(provider: str) -> dict[str, Any]:
    """Colour, style and width of a provider's lines; simpler losses get thin ones."""
    return {
        "color": COLOURS.get(provider, GREY),
        "linestyle": STYLES.get(provider, "-"),
        "linewidth": 2.5 if provider in COLOURS else 1.5,
    }


def _bars(axes: Any, row: int, measured: dict[str, Measurement], ratio: Ratio, text: Text) -> None:
    """Draws the bars of one case and their figures; without a ratio, only the figures of the implementations."""
    reference = measured.get("reference")
    heights = _heights(list(measured))
    products = ratio(measured["products"], reference) if "products" in measured else None
    mark = 0.0 if products is None else products.median
    top = row - 0.44
    for provider, height in heights.items():
        middle, top = top + height / 2, top + height
        value, figures = ratio(measured[provider], reference), text(measured[provider])
        if provider not in COLOURS:
            _thin_bar(axes, middle, 0.7 * height, provider, value)
        elif value is None:
            _note(axes, 0.0, middle, f"{LABELS[provider]}: {figures}", size=11)
        else:
            axes.barh(middle, value.median, 0.88 * height, color=COLOURS[provider], label=LABELS[provider])
            axes.plot([value.low, value.high], [middle] * 2, color="0.2", linewidth=1)
            _note(axes, max(*value, mark), middle, f"{value.median:.2f}  ({figures})", size=11)
    if products is not None:
        ends = [row - 0.46, row - 0.42 + sum(height for provider, height in heights.items() if provider in COLOURS)]
        edge = withStroke(linewidth=4, foreground="white")
        axes.plot([mark] * 2, ends, label=LABELS["products"], path_effects=[edge], **_look("products"))


def _heights(providers: list[str]) -> dict[str, float]:
    """Bar height by provider, as a share of the row; simpler losses get less."""
    shares = {provider: 1.0 for provider in COLOURS if provider in providers and provider != "products"}
    shares |= {provider: 0.6 for provider in providers if provider not in COLOURS}
    return {provider: 0.88 * share / sum(shares.values()) for provider, share in shares.items()}


def _thin_bar(axes: Any, middle: float, height: float, provider: str, value: Spread | None) -> None:
    """Draws the bar of a simpler loss, with its name next to it."""
    if value is not None:
        axes.barh(middle, value.median, height, color="0.75")
        _note(axes, value.median, middle, f"{provider} {value.median:.2f}", size=9, color="0.4")


def _note(axes: Any, end: float, middle: float, text: str, **look: Any) -> None:
    """Writes a text to the right of a bar."""
    axes.annotate(text, (end, middle), (5, 0), textcoords="offset points", va="center_baseline", **look)


def _time_ratio(measurement: Measurement, _: Measurement | None) -> Spread | None:
    return measurement.to_reference


def _memory_ratio(measurement: Measurement, reference: Measurement | None) -> Spread | None:
    if reference is None or reference.peak_bytes is None or measurement.peak_bytes is None:
        return None
    value = measurement.peak_bytes / reference.peak_bytes
    return Spread(value, value, value)


def _time_text(measurement: Measurement) -> str:
    both = measurement.forward_and_backward
    return "does not fit" if both is None else _seconds(both.median, 0)


def _memory_text(measurement: Measurement) -> str:
    return "does not fit" if measurement.peak_bytes is None else _bytes(measurement.peak_bytes, 0)


def _sizes(axes: Any, sizes: list[int]) -> None:
    """Puts ticks at the measured sizes."""
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())


def _seconds(value: float, _: int) -> str:
    return _scaled(value, ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")))


def _bytes(value: float, _: int) -> str:
    return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """The value in the largest unit that does not exceed it."""
    scale, unit = next(((scale, unit) for scale, unit in units if value >= 0.9995 * scale), units[-1])
    return f"{value / scale:.3g} {unit}"
