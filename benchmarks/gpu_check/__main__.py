"""Checks and times the Triton backend on a GPU.

    python -m benchmarks.gpu_check

The output folder has report.md and results.jsonl, which are kept up to date during the check, so that a killed check leaves
its findings. Exit status: 0 if every number is right; 1 if a number is wrong or was not reached, or if a process crashed;
2 without a GPU.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_check.report import passed
from benchmarks.gpu_check.session import SECONDS, Phase, run_session

HERE = "benchmarks.gpu_check"

PHASES = (
    Phase("environment", f"{HERE}.environment", share=45),
    Phase("numbers", f"{HERE}.numbers", share=190, processes=14),
    Phase("timing", f"{HERE}.timing", share=60),
    Phase("kernels", f"{HERE}.kernels", share=30),
    Phase("graphs", f"{HERE}.graphs", share=60, processes=4),
    Phase("probes", f"{HERE}.probes", share=20),
    Phase("sweep", f"{HERE}.sweep", share=70, processes=14),
    Phase("compiled", f"{HERE}.compiled", share=80, processes=5),
    Phase("sanitizer", f"{HERE}.sanitizer", share=50, processes=4),
    Phase("host", f"{HERE}.host", share=15),
)
"""The phases, most valuable first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check and prints its report.

    Args:
        arguments: of the command line; by default those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {HERE}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/gpu-check"), metavar="DIR", help="default: runs/gpu-check")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"time for the whole check, default {SECONDS:.0f}")
    parser.add_argument(
        "--phases", type=_phases, default=PHASES, metavar="A,B,C", help=", ".join(each.name for each in PHASES)
    )
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-check needs a GPU that PyTorch can use, and found none.")
        return 2
    folder: Path = given.output.absolute()
    lines = run_session(given.phases, folder, given.seconds)
    print((folder / "report.md").read_text())
    return 0 if passed(lines) else 1


def _phases(names: str) -> list[Phase]:
    known = {phase.name: phase for phase in PHASES}
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"phase must be one of {', '.join(known)}, got {unknown[0]!r}")
    return [known[name] for name in names.split(",")]


if __name__ == "__main__":
    sys.exit(main())
