"""The machine instructions that a call takes outside of the Python interpreter, counted by valgrind's callgrind.

A count doesn't depend on what else the machine does, which makes it the measure for small batches: a call takes half a
millisecond there, most of it for choosing and launching operations. Counted are PyTorch and the C and C++ libraries beneath
it, in forward and backward of ``bilateral_loss``, on one thread; the interpreter is left out, because what it does depends
on how often it has run a function before. The counts of one process differed by less than 0.1 %, their medians in several
processes not at all. Loading the providers would take long under valgrind, so these are the backends of the public function:

    torch       ``backend="torch"``
    reference   ``backend="reference"``, unlike elsewhere with argument checks and edge cases

``python -m benchmarks.instructions SAMPLES CLASSES PROVIDER...`` is what runs under valgrind.
"""

import argparse
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cases import Case, make_inputs
from benchmarks.checks import UnavailableError
from bickd_kernels import bilateral_loss

BACKENDS = {"torch": "torch", "reference": "reference"}
"""By provider."""

ROUNDS = 3
"""Counts of each provider, in turn."""

CALLS = 5
"""Calls in one count."""

TIMEOUT = 600.0
"""Seconds; valgrind slows a program down fifty times."""

TOOLS = ("valgrind", "callgrind_control", "callgrind_annotate")

_COUNTED = re.compile(r"lib(torch|c10|gomp|stdc\+\+|[cm][.-])|ld-")
"""The beginning of a library's file name."""

_LINE = re.compile(r"\s*([\d,]+)\s.*\[(?P<library>[^\]]*)\]$")
"""``1,234  file:function [library]``; functions of the interpreter may come without a library."""


def count(case: Case, names: Sequence[str]) -> dict[str, list[float]]:
    """Instructions of one call, by provider and round.

    Raises:
        UnavailableError: without valgrind.
        RuntimeError: if the program fails under valgrind.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        message = f"{', '.join(missing)} not found; they are in the package valgrind of Linux distributions"
        raise UnavailableError(message)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind"
        _run_under_callgrind(case, names, output)
        counts = [count_in_libraries(_annotated(Path(f"{output}.{part}"))) for part in range(1, ROUNDS * len(names) + 1)]
    return {name: [counted / CALLS for counted in counts[index :: len(names)]] for index, name in enumerate(names)}


def count_in_libraries(annotated: str) -> int:
    """The instructions in PyTorch and beneath it, from what ``callgrind_annotate`` prints of all functions."""
    matches = filter(None, map(_LINE.match, annotated.splitlines()))
    return sum(int(match[1].replace(",", "")) for match in matches if _COUNTED.match(Path(match["library"]).name))


def _run_under_callgrind(case: Case, names: Sequence[str], output: Path) -> None:
    options = ["--instr-atstart=no", "--collect-atstart=no", f"--callgrind-out-file={output}"]
    program = [sys.executable, "-m", "benchmarks.instructions", str(case.samples), str(case.classes), *names]
    # Waiting threads would be counted, and the order of sets and of keys would differ from one process to the next.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    finished = subprocess.run(
        ["valgrind", "--tool=callgrind", *options, *program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if finished.returncode != 0:
        raise RuntimeError(f"counting instructions failed:\n{finished.stderr[-4000:]}")


def _annotated(dump: Path) -> str:
    command = ["callgrind_annotate", "--threshold=100", "--show-percs=no", str(dump)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("samples", type=int)
    parser.add_argument("classes", type=int)
    parser.add_argument("names", nargs="+", choices=BACKENDS)
    arguments = parser.parse_args()
    inputs = make_inputs(Case("counted", arguments.samples, arguments.classes))

    def call(name: str) -> None:
        inputs.student.grad = None
        bilateral_loss(*inputs, backend=BACKENDS[name]).backward()

    for name in arguments.names:
        call(name)
    gc.collect()
    gc.disable()
    # Valgrind instruments from here on alone, after the imports.
    subprocess.run(["callgrind_control", "--instr=on", str(os.getpid())], check=True, stdout=subprocess.DEVNULL)
    for _ in range(ROUNDS):
        for name in arguments.names:
            call(name)
            torch._C._valgrind_toggle()
            for _ in range(CALLS):
                call(name)
            torch._C._valgrind_toggle_and_dump_stats()


if __name__ == "__main__":
    _main()
