"""The GPU resources of every kernel that the heuristics choose, compiled ahead of time and compared with a snapshot.

The snapshot is one file in ``resources/`` for each target and dtype. ``make aot-snapshot`` renews it.
"""

import json
import math
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from aot import SHARED_LIMIT, TARGETS, Resources, measure, recording
from cases import make_inputs

from bickd_kernels import bickd_loss

SHAPES = ((64, 100), (128, 100), (256, 1000), (1024, 1000), (256, 21841))

STEPS = [(shape, "cosine") for shape in SHAPES] + [(shape, "correlation") for shape in SHAPES[-2:]]
"""Training steps by their shape and their similarity."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PRODUCTS = {"similarity_tiles", "slope_tiles"}
"""The kernels that multiply matrices."""

READERS_OF_ROWS = {"sample_statistics", "logit_gradient"}

SNAPSHOTS = Path(__file__).with_name("resources")

TARGET_AND_DTYPE = [(target, dtype) for target in TARGETS for dtype in DTYPES]


@cache
def resources(target: str, dtype: str) -> dict[str, list[Resources]]:
    """The kernels of each step, in the order of their launches."""
    found = {}
    for (samples, classes), similarity in STEPS:
        inputs = make_inputs(samples, classes, dtype=DTYPES[dtype])
        with recording(target) as kernels:
            bickd_loss(inputs.student.requires_grad_(), inputs.teacher, inputs.target, similarity=similarity).backward()
        found[f"{samples}x{classes} {similarity}"] = [measure(kernel) for kernel in kernels]
    return found


def as_json(found: dict[str, list[Resources]]) -> Any:
    """As read back from a file: the widths of loads and stores are keys, which become strings."""
    return json.loads(json.dumps({step: [asdict(kernel) for kernel in kernels] for step, kernels in found.items()}))


def bits_at_a_time(kernel: str, classes: int, dtype: torch.dtype) -> int:
    """The width of loads that alignment allows: rows of 100 16-bit logits are aligned to 8 bytes, rows of 21841 to elements.

    A thread of class statistics reads logits of one class, so that threads exchange few sums over samples.
    """
    if kernel in READERS_OF_ROWS:
        return 8 * math.gcd(16, classes * dtype.itemsize)
    if kernel == "class_statistics":
        return 8 * dtype.itemsize
    return 32 if kernel == "partial_sums" else 128


@pytest.mark.parametrize(("target", "dtype"), TARGET_AND_DTYPE)
def test_kernels_fit_the_gpu_and_have_the_resources_of_the_snapshot(target: str, dtype: str) -> None:
    found = resources(target, dtype)
    assert [len(kernels) for kernels in found.values()] == [6, 6, 6, 6, 8, 6, 8]
    for step, kernels in found.items():
        for kernel in kernels:
            where = f"{kernel.kernel} for {step} {dtype} on {target}: {kernel}"
            assert not kernel.spills, where
            assert kernel.shared_bytes <= SHARED_LIMIT[target], where
            assert kernel.tensor_memory <= 512, where
            assert kernel.fp64_arithmetic == 0, where
            assert (kernel.matrix_instructions > 0) == (kernel.kernel in PRODUCTS), where
            bits = bits_at_a_time(kernel.kernel, int(step.split()[0].split("x")[1]), DTYPES[dtype])
            assert kernel.widest_load >= bits, where
            assert 16 not in kernel.global_loads or bits <= 16, where
    if os.environ.get("BICKD_RENEW_SNAPSHOT") == "1":
        SNAPSHOTS.mkdir(exist_ok=True)
        (SNAPSHOTS / f"{target}-{dtype}.json").write_text(json.dumps(as_json(found), indent=1) + "\n")
    assert as_json(found) == json.loads((SNAPSHOTS / f"{target}-{dtype}.json").read_text()), "make aot-snapshot renews it"
