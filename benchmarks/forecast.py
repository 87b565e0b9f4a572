"""A forecast, not a measurement: what a training step of ``bickd_loss`` with targets takes at least, on three GPUs.

    python -m benchmarks.forecast    each launch of the kernels; how they fill a GPU; the step by provider

A launch takes at least the larger of its bytes over the bandwidth and its flops over the peak rate. A step takes these
floors and ``LAUNCH_SECONDS`` for each launch. Bytes are compulsory ones: each buffer of a launch once, and nothing survives
in a cache from one launch to the next. Flops are those of matrix products, at the peak rate of what computes them:

    triton      by the formulas of ``kernel_traffic``: products of float16 on tensor cores, three for one of float32 grade
    reference   autograd of the definition, by ``dispatched``: products in float32 without tensor cores, PyTorch's default
                (``torch.set_float32_matmul_precision`` can lower it to TF32, and the kernels to single products)
    compiled    ``torch.compile`` of the definition, likewise

A launch of fewer programs than there are multiprocessors has that share of bandwidth and peak rate, although one
multiprocessor alone can draw more than its share of the bandwidth. What launches other than those of the kernels consist of
is not known: they are taken to fill the GPU.

Left out: caches, how many programs share a multiprocessor, a last wave that is not full, latencies of instructions that wait
for each other, arithmetic besides products, and clocks below their peak.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.devices import DEVICES, Device
from benchmarks.dispatched import count_compiled, count_eager, definition, make_inputs
from benchmarks.kernel_traffic import Work, training_step
from benchmarks.occupancy import programs_per_multiprocessor, reported

SHAPES = ((64, 100), (128, 100), (256, 1000), (1024, 1000), (256, 21841))

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

PARTS = {"bfloat16": 1, "float32": 2}
"""Float16 numbers that an operand of the kernels' products is made of, by the logits' dtype."""

PROVIDERS = ("triton", "reference", "compiled")

LAUNCH_SECONDS = 3e-6
"""An assumption: what a launch costs beyond its work, the same for everybody.

It stands for a host that does nothing but call the driver, which takes it some 2 to 4 us. Replayed from a CUDA graph it is
about 1 us. A host that goes through PyTorch's dispatcher and autograd, or through Triton's launcher in Python, needs 5 to 25
us: where the GPU waits for it, a step is slower than forecast. These are orders of magnitude from common experience, and
nothing was measured. The forecast is linear in it, by the number of launches.
"""

LARGEST_COMPILED = 2000
"""Classes up to which the definition is compiled. Its products are run then, and its matrices have to fit into memory."""


class Launch(NamedTuple):
    """What the forecast knows of a launch; ``programs`` is None where it is not known."""

    name: str
    moved: int
    flops: int
    programs: int | None = None


@dataclass(frozen=True)
class Forecast:
    """Forward and backward of one provider on one GPU, and what the time follows from, summed over the launches."""

    samples: int
    classes: int
    dtype: str
    provider: str
    device: str
    microseconds: float
    launches: int
    megabytes: float
    gigaflop: float


def forecast() -> list[Forecast]:
    """Every shape, dtype, provider and GPU; beyond ``LARGEST_COMPILED`` classes ``compiled`` is absent.

    Nearly all of its time, about half a minute, is that of ``torch.compile``.
    """
    return [
        forecast_step(samples, classes, dtype, provider, launches, device)
        for samples, classes in SHAPES
        for dtype in DTYPES
        for provider in PROVIDERS
        if provider != "compiled" or classes <= LARGEST_COMPILED
        for launches in [launches_of(provider, samples, classes, dtype)]
        for device in DEVICES
    ]


def forecast_step(samples: int, classes: int, dtype: str, provider: str, launches: list[Launch], device: Device) -> Forecast:
    """The forecast of a step that consists of these launches."""
    peak = device.float16_peak if provider == "triton" else device.float32_peak
    seconds = sum(floor(launch, device, peak) + LAUNCH_SECONDS for launch in launches)
    moved, flops = sum(launch.moved for launch in launches), sum(launch.flops for launch in launches)
    return Forecast(samples, classes, dtype, provider, device.name, 1e6 * seconds, len(launches), moved / 1e6, flops / 1e9)


def floor(launch: Launch, device: Device, peak: float) -> float:
    """Seconds that a launch takes at least, with products at ``peak`` flops a second of the whole GPU."""
    share = 1.0 if launch.programs is None else min(1.0, launch.programs / device.multiprocessors)
    return max(launch.moved / device.bandwidth, launch.flops / peak) / share


def launches_of(provider: str, samples: int, classes: int, dtype: str) -> list[Launch]:
    """The launches of a step: those of the kernels by formula, of PyTorch as it dispatches or compiles them."""
    if provider == "triton":
        return [_launch(work) for work in kernels(samples, classes, dtype)]
    if provider == "reference":
        operations = count_eager(definition, *make_inputs(samples, classes, DTYPES[dtype], "meta"))
    else:
        operations = count_compiled(definition, *make_inputs(samples, classes, DTYPES[dtype], "cpu"))
    return [Launch(*operation) for operation in operations]


def kernels(samples: int, classes: int, dtype: str) -> list[Work]:
    """The launches of a step of the Triton backend for logits of this dtype."""
    return training_step(samples, classes, DTYPES[dtype].itemsize, PARTS[dtype])


def _launch(work: Work) -> Launch:
    return Launch(work.kernel, work.compulsory, work.flops, work.programs)


def table(forecasts: Iterable[Forecast]) -> Table:
    """A row for each step and provider, a column for each GPU; also valid Markdown."""
    rows: dict[tuple[str, str, str], dict[str, Forecast]] = {}
    for one in forecasts:
        rows.setdefault((f"{one.samples}, {one.classes}", one.dtype, one.provider), {})[one.device] = one
    devices = list(dict.fromkeys(device for row in rows.values() for device in row))
    headings = [f"{device}, us" for device in devices]
    result = _table("Forecast of forward and backward, not measured", "provider", "launches", "MB", "Gflop", *headings)
    for names, row in rows.items():
        one = next(iter(row.values()))
        times = [f"{row[device].microseconds:.1f}" if device in row else "" for device in devices]
        result.add_row(*names, str(one.launches), f"{one.megabytes:.2f}", f"{one.gigaflop:.3f}", *times)
    return result


def launches_table() -> Table:
    """A row for each launch of the kernels, with its floor on each GPU."""
    headings = [f"{device.name}, us" for device in DEVICES]
    result = _table("Floors of the kernels, not measured", "launch", "programs", "MB", "requested MB", "Gflop", *headings)
    for samples, classes, dtype, work in _all_kernels():
        floors = [f"{1e6 * floor(_launch(work), device, device.float16_peak):.2f}" for device in DEVICES]
        counts = (f"{work.compulsory / 1e6:.2f}", f"{work.requested / 1e6:.2f}", f"{work.flops / 1e9:.3f}")
        result.add_row(f"{samples}, {classes}", dtype, work.kernel, _count(work.programs), *counts, *floors)
    return result


def occupancy_table() -> Table:
    """A row for each kernel whose compiled code is on record: programs on a multiprocessor at a time, and waves."""
    headings = [heading for device in DEVICES for heading in (device.name, "waves")]
    result = _table("Programs of a kernel that fit on a multiprocessor", "kernel", "programs", *headings)
    for samples, classes, dtype, work in _all_kernels():
        cells: list[str] = []
        for device in DEVICES:
            resources = reported(device.target, dtype, samples, classes).get(work.kernel)
            if resources is not None and work.programs is not None:
                together = programs_per_multiprocessor(resources, device.multiprocessor)
                cells += [str(together), f"{work.programs / (together * device.multiprocessors):.2f}"]
        if cells:
            result.add_row(f"{samples}, {classes}", dtype, work.kernel, _count(work.programs), *cells)
    return result


def _all_kernels() -> Iterable[tuple[int, int, str, Work]]:
    return ((*shape, dtype, work) for shape in SHAPES for dtype in DTYPES for work in kernels(*shape, dtype))


def _count(programs: int | None) -> str:
    return "" if programs is None else str(programs)


def _table(title: str, subject: str, *headings: str) -> Table:
    """An empty table: the batch and the subject of a row, then a column of numbers for each heading."""
    result = Table(title=title, box=box.MARKDOWN)
    for heading in ("B, C", "logits", subject):
        result.add_column(heading, no_wrap=True)
    for heading in headings:
        result.add_column(heading, justify="right", no_wrap=True)
    return result


def main() -> None:
    """Prints the tables."""
    console = Console(width=max(170, Console().width), highlight=False)
    console.print(launches_table())
    occupancy = occupancy_table()
    console.print(
        occupancy if occupancy.rows else "How the kernels fill a GPU is not known without tests/kernels/resources."
    )
    with console.status("counting what PyTorch does"):
        forecasts = forecast()
    console.print(table(forecasts))


if __name__ == "__main__":
    main()
