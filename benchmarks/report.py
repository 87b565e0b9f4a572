"""The table of ``make bench``, and ``results.json``, which holds all measurements."""

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.machine import Ceilings
from benchmarks.results import Measurement
from benchmarks.timing import Spread
from benchmarks.work import least_bytes, product_flops


def table(measurements: Sequence[Measurement], ceilings: Ceilings) -> Table:
    """One row per case and provider."""
    copy, matmul = f"{ceilings.copy / 1e9:.1f} GB/s", f"{ceilings.matmul / 1e9:.0f} Gflop/s"
    result = Table(
        title="Forward, and forward and backward, in float32",
        caption="Median ± half the interquartile range. Ratios: of the times with backward. Memory: peak of forward and "
        "backward, without the inputs. GB/s and Gflop/s: bytes and flops that no exact implementation can avoid, divided "
        f"by the time; in brackets, the share of this machine's rate in a copy ({copy}) and in a large matrix product "
        f"({matmul}). KD and DIST are simpler losses; products: only the matrix products of the bilateral loss.",
    )
    result.add_column("case")
    result.add_column("provider")
    for heading in (
        "forward ms",
        "with backward ms",
        "/ reference",
        "/ products",
        "memory MB",
        "GB/s (% copy)",
        "Gflop/s (% product)",
    ):
        result.add_column(heading, justify="right")
    for index, measurement in enumerate(measurements):
        following = measurements[index + 1 : index + 2]
        last = not following or following[0].case != measurement.case
        result.add_row(*_row(measurement, ceilings), end_section=last)
    return result


def _row(measurement: Measurement, ceilings: Ceilings) -> tuple[str, ...]:
    case, both = measurement.case, measurement.forward_and_backward
    name = f"{case.name} {case.samples} x {case.classes}"
    if both is None:
        return name, measurement.provider, f"not run: {measurement.skipped}"
    bytes_, flops = least_bytes(case) / both.median, product_flops(case) / both.median
    return (
        name,
        measurement.provider,
        milliseconds(measurement.forward),
        milliseconds(both),
        _ratio(measurement.to_reference),
        _ratio(measurement.to_products),
        "-" if measurement.peak_bytes is None else f"{measurement.peak_bytes / 1e6:.4g}",
        f"{bytes_ / 1e9:.3g} ({bytes_ / ceilings.copy:.0%})",
        "-" if measurement.to_products is None else f"{flops / 1e9:.3g} ({flops / ceilings.matmul:.0%})",
    )


def _ratio(of_times: Spread | None) -> str:
    return "-" if of_times is None else f"{of_times.median:.2f}"


def milliseconds(seconds: Spread | None) -> str:
    """Median and half the interquartile range."""
    if seconds is None:
        return "-"
    median = f"{1e3 * seconds.median:.3g}"
    if seconds.low == seconds.high:
        return median
    return f"{median} ± {(seconds.high - seconds.low) / (2 * seconds.median):.0%}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON; dataclasses and named tuples become objects with their field names."""
    path.write_text(json.dumps(_plain(content), indent=1) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        # asdict would turn a nested named tuple into a list of its values.
        return {name: _plain(getattr(value, name)) for name in asdict(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
