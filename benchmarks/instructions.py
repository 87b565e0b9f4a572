"""Machine instructions of a call outside the Python interpreter, counted by valgrind's callgrind.

A count does not depend on other load, which makes it the right measure for small batches: there a call takes half a
millisecond, most of it for dispatching operations. The count covers PyTorch and the C and C++ libraries beneath it, in
forward and backward of ``bilateral_loss``, on one thread. It excludes the interpreter, whose work depends on how often it
has run a function before. Counts within one process differed by less than 0.1 %, their medians over several processes not
at all. Loading the providers would be slow under valgrind, so these are backends of the public function:

    torch       ``backend="torch"``
    reference   ``backend="reference"``; unlike elsewhere, with argument checks and edge cases

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
"""Backends by provider."""

ROUNDS = 3
"""Counts per provider; providers are interleaved."""

CALLS = 5
"""Calls in one count."""

TIMEOUT = 600.0
"""Seconds; valgrind slows a program down by a factor of fifty."""

TOOLS = ("valgrind", "callgrind_control", "callgrind_annotate")

_COUNTED = re.compile(r"lib(torch|c10|gomp|stdc\+\+|[cm][.-])|ld-")
"""Matches the start of a counted library's file name."""

_LINE = re.compile(r"\s*([\d,]+)\s.*\[(?P<library>[^\]]*)\]$")
"""``1,234  file:function [library]``; functions of the interpreter may come without a library."""


def count(case: Case, names: Sequence[str]) -> dict[str, list[float]]:
    """Instructions per call, by provider and round.

    Raises:
        UnavailableError: without valgrind.
        RuntimeError: if the program fails under valgrind.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        message = f"{', '.join(missing)} not found; install the package valgrind of your Linux distribution"
        raise UnavailableError(message)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind"
        _run_under_callgrind(case, names, output)
        counts = [count_in_libraries(_annotated(Path(f"{output}.{part}"))) for part in range(1, ROUNDS * len(names) + 1)]
    return {name: [counted / CALLS for counted in counts[index :: len(names)]] for index, name in enumerate(names)}


def count_in_libraries(annotated: str) -> int:
    """The instructions in PyTorch and the libraries beneath it, from the function list of ``callgrind_annotate``."""
    matches = filter(None, map(_LINE.match, annotated.splitlines()))
    return sum(int(match[1].replace(",", "")) for match in matches if _COUNTED.match(Path(match["library"]).name))


def _run_under_callgrind(case: Case, names: Sequence[str], output: Path) -> None:
    options = ["--instr-atstart=no", "--collect-atstart=no", f"--callgrind-out-file={output}"]
    program = [sys.executable, "-m", "benchmarks.instructions", str(case.samples), str(case.classes), *names]
    # Otherwise waiting threads would be counted, and the order of sets and keys would differ between processes.
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
    # Valgrind instruments only from here on, after the imports.
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
