"""The tables of ``docs/performance.md`` that need no GPU, in Markdown.

    python -m benchmarks.forecast            prints them, in less than five minutes on one core
    python -m benchmarks.forecast --write    writes them into docs/performance.md

The first table has modelled, not measured, times (``clock_model``) for each launch of a training step of ``bickd_loss`` with
targets. The second has launches and bytes of the same step with other implementations, as counted by ``dispatched``.
"""

import argparse
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.cases import Case
from benchmarks.cases import make_inputs as make_batch
from benchmarks.devices import DEVICES, Device
from benchmarks.dispatched import Operation, count_compiled, count_eager, definition, make_inputs
from benchmarks.kernel_traffic import Work, training_step
from bickd_kernels.backends.contract import Batch
from bickd_kernels.options import BicKDOptions

SHAPES = ((64, 100), (128, 100), (256, 1000), (1024, 1000), (256, 21841))

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

PARTS = {"bfloat16": 1, "float32": 2}
"""float16 numbers per operand of the kernels' products, by the dtype of the logits."""

PROVIDERS = ("reference", "compiled")
"""The counted implementations without custom kernels."""

LARGEST_COMPILED = 2000
"""The definition is compiled up to this many classes. Compiling runs its products, so its matrices must fit into memory."""

SAMPLE = 9
"""Executed programs per launch; ``FEW`` with more than ``LARGEST_COMPILED`` classes."""

FEW = 3

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

BEGIN, END = "<!-- python -m benchmarks.forecast --write -->", "<!-- end -->"


class Timed(NamedTuple):
    """A launch by the model. The times are for each of ``DEVICES``, in order; everything else is for the last one."""

    samples: int
    classes: int
    dtype: str
    kernel: str
    programs: int
    seconds: tuple[float, ...]
    instructions: int
    read: int
    ideally_read: int
    written: int
    ideally_written: int


@dataclass(frozen=True)
class Forecast:
    """A training step with the kernels on one GPU, by the model, summed over its launches.

    Attributes:
        megabytes: of the requested sectors.
        gigaflop: of matrix products.
    """

    samples: int
    classes: int
    dtype: str
    provider: str
    device: str
    microseconds: float
    launches: int
    megabytes: float
    gigaflop: float


def forecast(shapes: Iterable[tuple[int, int]] = SHAPES) -> list[Forecast]:
    """The step for every shape, dtype and GPU of ``DEVICES``, without PyTorch's own launches."""
    steps = [list(timed_step(*shape, dtype)) for shape in shapes for dtype in DTYPES]
    return [_total(step, index, device) for step in steps for index, device in enumerate(DEVICES)]


def _total(step: list[Timed], index: int, device: Device) -> Forecast:
    samples, classes, dtype = step[0][:3]
    return Forecast(
        samples,
        classes,
        dtype,
        "triton",
        device.name,
        1e6 * sum(launch.seconds[index] for launch in step),
        len(step),
        32e-6 * sum(launch.read + launch.written for launch in step),
        sum(work.flops for work in kernels(samples, classes, dtype)) / 1e9,
    )


def kernels(samples: int, classes: int, dtype: str) -> list[Work]:
    """The launches of a Triton backend step for logits of this dtype, by the formulas of ``kernel_traffic``."""
    return training_step(samples, classes, DTYPES[dtype].itemsize, PARTS[dtype])


def timed_step(samples: int, classes: int, dtype: str) -> list[Timed]:
    """The launches of a step with the kernels, in order."""
    from benchmarks.clock_model.launches import Launch, launches, zeros_for_empty
    from benchmarks.clock_model.model import model
    from bickd_kernels.backends import triton

    student, teacher, target = make_batch(Case("modelled", samples, classes), dtype=DTYPES[dtype])
    found: list[Timed] = []

    def consume(launch: Launch) -> None:
        modelled = model(launch, DEVICES, FEW if classes > LARGEST_COMPILED else SAMPLE)
        times, last = tuple(one.seconds for one in modelled), modelled[-1]
        found.append(Timed(samples, classes, dtype, last.kernel, last.programs, times, *last.counts[:5]))

    with torch.no_grad(), zeros_for_empty(), launches(consume):
        triton.compute(Batch(student, teacher, target), BicKDOptions().settings, slice(None))
    return found


def counted(provider: str, samples: int, classes: int, dtype: str) -> list[Operation]:
    """PyTorch's launches for a step of the definition, dispatched or compiled."""
    count, device = (count_eager, "meta") if provider == "reference" else (count_compiled, "cpu")
    return count(definition, *make_inputs(samples, classes, DTYPES[dtype], device))


def panels_together(launches: Iterable[Timed]) -> list[tuple[int, Timed]]:
    """Launches with their counts: a kernel's launches after its first one in a step are those of panels, and are merged."""
    rows: dict[tuple[int, int, str, str, bool], list[Timed]] = {}
    for one in launches:
        first = (one.samples, one.classes, one.dtype, one.kernel, False)
        rows.setdefault((*first[:4], first in rows), []).append(one)
    return [(len(alike), functools.reduce(_sum, alike)) for alike in rows.values()]


def _sum(total: Timed, one: Timed) -> Timed:
    """Adds up two launches of a kernel."""
    return total._replace(
        programs=total.programs + one.programs,
        seconds=tuple(a + b for a, b in zip(total.seconds, one.seconds, strict=True)),
        instructions=total.instructions + one.instructions,
        read=total.read + one.read,
        ideally_read=total.ideally_read + one.ideally_read,
        written=total.written + one.written,
        ideally_written=total.ideally_written + one.ideally_written,
    )


def launches_table(launches: Iterable[Timed]) -> Iterator[str]:
    """A Markdown table, line by line, with a row for each launch; the launches of all panels share a row."""
    times = [f"{device.name}, us" for device in DEVICES]
    counts = ["1000 warp instructions", "sectors read", "ideal", "sectors written", "ideal"]
    yield from _heading(["B, C", "logits", "launch"], ["launches", "programs", *times, *counts])
    for number, one in panels_together(launches):
        cells = [f"{one.samples}, {one.classes}", one.dtype, one.kernel, str(number), str(one.programs)]
        cells += [f"{1e6 * seconds:.3g}" if seconds < 1e-3 else f"{1e6 * seconds:.0f}" for seconds in one.seconds]
        sectors = (one.read, one.ideally_read, one.written, one.ideally_written)
        yield _row([*cells, f"{one.instructions / 1e3:.0f}", *map(str, sectors)])


def providers_table() -> Iterator[str]:
    """A Markdown table, line by line, with a row for each step and provider."""
    yield from _heading(["B, C", "logits", "provider"], ["launches", "MB"])
    for samples, classes in SHAPES:
        for dtype in DTYPES:
            for provider in PROVIDERS:
                if provider != "compiled" or classes <= LARGEST_COMPILED:
                    operations = counted(provider, samples, classes, dtype)
                    moved = sum(operation.moved for operation in operations) / 1e6
                    yield _row([f"{samples}, {classes}", dtype, provider, str(len(operations)), f"{moved:.1f}"])


def _heading(names: Sequence[str], numbers: Sequence[str]) -> Iterator[str]:
    yield _row([*names, *numbers])
    yield "|---" * len(names) + "|--:" * len(numbers) + "|"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def lines() -> Iterator[str]:
    """All output of the command, line by line as it becomes available."""
    yield from launches_table(launch for shape in SHAPES for dtype in DTYPES for launch in timed_step(*shape, dtype))
    yield ""
    yield from providers_table()


def replaced(page: str, tables: str) -> str:
    """The page with these tables between its markers.

    Raises:
        ValueError: if the page has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"found no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="also write the tables into docs/performance.md")
    arguments = parser.parse_args()
    printed = []
    for line in lines():
        print(line, flush=True)
        printed.append(line)
    if arguments.write:
        PAGE.write_text(replaced(PAGE.read_text(), "\n".join(printed)))


if __name__ == "__main__":
    main()
