"""``make bench``: measures the loss against its alternatives, and writes tables, plots and ``results.json``.

    python -m benchmarks                       everything, in less than ten minutes on two cores; into runs/bench
    python -m benchmarks --device cpu          on the CPU of a machine that has a GPU
    python -m benchmarks --output FOLDER

The first table compares all providers on the batches of common data sets. The second shows how time and memory grow with
samples and classes, the third what share of a training step each method's loss takes, the last what a step with the kernels
costs the host. ``providers.py``, ``timing.py``, ``memory.py`` and ``work.py`` define the figures.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import host_cost, plots, report, scaling, step_share
from benchmarks.cases import CASES, CLASS_SERIES, SAMPLE_SERIES
from benchmarks.checks import UnavailableError
from benchmarks.machine import describe, measure_ceilings
from benchmarks.measure import measure_case, measure_series
from benchmarks.results import Measurement

STEP_SECONDS = 10.0
"""Time for all repetitions of training steps, over all methods."""


def main() -> None:
    """Runs the benchmarks and writes their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    console = Console(width=max(150, Console().width))
    bench(arguments.device, arguments.output, console)


def bench(device: str, output: Path, console: Console) -> None:
    """Measures everything on a device; prints and writes results as they arrive."""
    start = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    machine = describe(device)
    console.print(", ".join(f"{name}: {value}" for name, value in machine.items()))
    with stage("ceilings of this machine", console):
        ceilings = measure_ceilings(device)
    named = _named_cases(device, console)
    console.print(report.table(named, ceilings))
    series = _series(device, console)
    exponents = scaling.fit(series)
    console.print(scaling.table(exponents))
    with stage("training steps", console):
        shares = step_share.measure(device, STEP_SECONDS)
    console.print(step_share.table(shares))
    host = _host_cost(console)

    content = {
        "machine": machine,
        "ceilings": ceilings,
        "cases": named,
        "series": series,
        "exponents": exponents,
        "step_shares": shares,
        "host_cost": host,
    }
    report.write_json(output / "results.json", content)
    pictures = plots.draw([*named, *series], output, f"{machine.get('GPU', machine['CPU'])}, {machine['threads']} threads, "
                          f"PyTorch {machine['PyTorch']}")  # fmt: skip
    console.print(f"{time.perf_counter() - start:.0f} s; {output / 'results.json'}, {', '.join(map(str, pictures))}")


def _named_cases(device: str, console: Console) -> list[Measurement]:
    found: list[Measurement] = []
    for case in CASES:
        with stage(f"{case.name}, {case.samples} x {case.classes}", console):
            found += measure_case(case, device)
    return found


def _series(device: str, console: Console) -> list[Measurement]:
    found: list[Measurement] = []
    for cases in (CLASS_SERIES, SAMPLE_SERIES):
        with stage(f"growth with {cases[0].name}", console):
            for measured in measure_series(cases, device):
                found += measured
    return found


def _host_cost(console: Console) -> list[host_cost.Cost]:
    try:
        with stage("what a step costs the host", console):
            costs = host_cost.measure_parts()
    except UnavailableError as error:
        console.print(f"host cost skipped: {error}", markup=False)
        return []
    console.print(host_cost.table(costs))
    return costs


@contextmanager
def stage(name: str, console: Console) -> Iterator[None]:
    """Shows what is being measured and, at the end, how long it took."""
    start = time.perf_counter()
    with console.status(name):
        yield
    console.print(f"{time.perf_counter() - start:5.0f} s  {name}")


if __name__ == "__main__":
    main()
