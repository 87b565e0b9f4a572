"""Phase: compares how this GPU's tensor cores sum with the models that the kernel tests use."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_check.probe_kernel import add_products
from benchmarks.gpu_check.task import Task


class Probe(NamedTuple):
    """Products of two float16 numbers added to an accumulator, and the sums predicted by the models, in units of 2^-23."""

    name: str
    left: float
    right: float
    accumulator: float
    terms: int
    h100: float
    """Truncated after 25 fraction bits, groups of 16, result rounded towards 0."""
    a100: float
    """Truncated after 24 fraction bits, groups of 8, result rounded towards 0."""
    rounded: float
    """Each sum exact, then rounded to nearest."""


PROBES = (
    Probe("16 products of 2^-25 on 1", 2.0**-12, 2.0**-13, 1.0, 16, h100=4, a100=0, rounded=4),
    Probe("16 products of 2^-26 on 1", 2.0**-13, 2.0**-13, 1.0, 16, h100=0, a100=0, rounded=2),
    Probe("8 products of 2^-24 on 1", 2.0**-12, 2.0**-12, 1.0, 8, h100=4, a100=4, rounded=4),
    Probe("1 product of 3/4 of a unit on 1", 1.5 * 2.0**-12, 2.0**-12, 1.0, 1, h100=0, a100=0, rounded=1),
    Probe("16 products of 2^-13 on 0", 1.0, 2.0**-13, 0.0, 16, h100=16384, a100=16384, rounded=16384),
)


def tasks(_folder: Path) -> list[Task]:
    """All tasks of the phase."""
    return [Task(probe.name, partial(run, probe), 30) for probe in PROBES]


def run(probe: Probe, device: str = "cuda") -> dict[str, Any]:
    """What the GPU adds to the accumulator, in units of 2^-23."""
    result = torch.zeros(64, 64, device=device)
    add_products[(1,)](result, probe.left, probe.right, probe.accumulator, probe.terms, num_warps=4)
    units = (float(result[0, 0]) - probe.accumulator) * 2**23
    return {"units": units, "h100": probe.h100, "a100": probe.a100, "rounded": probe.rounded}
