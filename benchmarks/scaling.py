"""How time and memory grow with samples and with classes: exponents of power laws, fitted to series of shapes.

    y = a x^p,   log y = log a + p log x,   least squares

At small shapes the fixed cost of a call dominates, which follows no power law; the fit therefore uses the ``FITTED`` largest
sizes of a series. The error is the standard error of p: how far the points are from a line. It says nothing of other sizes.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from scipy import stats

from benchmarks.results import Measurement

FITTED = 4
"""Number of fitted sizes, each twice the previous one."""

LEAST_FITTED = 3
"""Minimum number of sizes: two points always lie on a line."""


@dataclass(frozen=True)
class Exponent:
    """``p`` of ``quantity ~ size^p`` for one provider, and its standard error, over ``smallest`` to ``largest``."""

    provider: str
    quantity: Literal["time", "memory"]
    against: Literal["B", "C"]
    exponent: float
    error: float
    smallest: int
    largest: int


def fit(measurements: Sequence[Measurement]) -> list[Exponent]:
    """The exponents of every provider, in order of appearance.

    Args:
        measurements: of ``CLASS_SERIES`` and ``SAMPLE_SERIES``, recognised by case name; others are ignored. A provider with
            fewer than ``LEAST_FITTED`` sizes has no exponent.
    """
    found = []
    for provider in dict.fromkeys(measurement.provider for measurement in measurements):
        own = [measurement for measurement in measurements if measurement.provider == provider]
        for against, series in (("C", "classes"), ("B", "samples")):
            of_series = [measurement for measurement in own if measurement.case.name == series]
            for quantity, value in _QUANTITIES.items():
                points = [(_size(measurement, against), value(measurement)) for measurement in of_series]
                exponent = _fit([(size, y) for size, y in points if y is not None])
                if exponent is not None:
                    found.append(Exponent(provider, quantity, against, *exponent))  # type: ignore[arg-type]
    return found


def table(exponents: Sequence[Exponent]) -> Table:
    """One row per provider; the caption gives the sizes of most fits, a cell its own sizes if they differ."""
    usual = _usual_ranges(exponents)
    ranges = " and ".join(f"{against} = {low} to {high}" for against, (low, high) in usual.items())
    result = Table(
        title="Growth of forward and backward with classes C and samples B",
        caption=f"Fitted exponents and their standard errors; {ranges}, the other size 256 samples or 1000 classes.",
    )
    result.add_column("provider")
    columns = [("time", "C"), ("memory", "C"), ("time", "B"), ("memory", "B")]
    for quantity, against in columns:
        result.add_column(f"{quantity} ~ {against}^p", justify="right")
    by_key = {(exponent.provider, exponent.quantity, exponent.against): exponent for exponent in exponents}
    for provider in dict.fromkeys(exponent.provider for exponent in exponents):
        cells = (by_key.get((provider, *column)) for column in columns)  # type: ignore[arg-type]
        result.add_row(provider, *(_cell(cell, usual) for cell in cells))
    return result


def _usual_ranges(exponents: Sequence[Exponent]) -> dict[str, tuple[int, int]]:
    """The smallest and largest size of most fits against C and against B."""
    ranges = {
        against: [(each.smallest, each.largest) for each in exponents if each.against == against] for against in ("C", "B")
    }
    return {against: statistics.mode(found) for against, found in ranges.items() if found}


def _cell(exponent: Exponent | None, usual: dict[str, tuple[int, int]]) -> str:
    """The exponent, with its sizes if they are not the usual ones because the provider was skipped at a size."""
    if exponent is None:
        return "-"
    fitted = f"{exponent.exponent:.2f} ± {exponent.error:.2f}"
    if (exponent.smallest, exponent.largest) == usual[exponent.against]:
        return fitted
    return f"{fitted} ({exponent.smallest} to {exponent.largest})"


def _seconds(measurement: Measurement) -> float | None:
    return None if measurement.forward_and_backward is None else measurement.forward_and_backward.median


def _bytes(measurement: Measurement) -> float | None:
    return measurement.peak_bytes


_QUANTITIES: dict[str, Callable[[Measurement], float | None]] = {"time": _seconds, "memory": _bytes}


def _size(measurement: Measurement, against: str) -> int:
    return measurement.case.classes if against == "C" else measurement.case.samples


def _fit(points: list[tuple[int, float]]) -> tuple[float, float, int, int] | None:
    """The exponent, its error, and the smallest and largest fitted size."""
    largest = sorted(points)[-FITTED:]
    if len(largest) < LEAST_FITTED:
        return None
    sizes, values = zip(*largest, strict=True)
    line = stats.linregress([math.log(size) for size in sizes], [math.log(value) for value in values])
    return float(line.slope), float(line.stderr), sizes[0], sizes[-1]
