"""Phase: checks loss and gradient of every kernel path and option against the float64 reference.

Each case runs twice and must give the same bits. Most of the time is compilation, which processes do in parallel.
"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.task import Task, alone
from bickd_kernels import bickd_loss
from bickd_kernels.accuracy import Case, compare, definition, evaluate, make_batch
from bickd_kernels.backends import choice
from bickd_kernels.options import BicKDOptions

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16

COMMON = ((64, 100), (128, 100), (256, 1000), (1024, 1000))
PATHS = (
    (256, 21841),  # recomputed in panels, unaligned rows
    (70, 2200),  # recomputed in panels, or kept with split-fp16 products
    (256, 2200),
    (600, 2200),  # partial sums of many tiles
    (520, 4200),  # the class side in panels
    (4200, 40),  # the sample side in panels
)
SMALL = ((1, 1), (1, 7), (7, 1), (2, 2), (17, 29), (37, 53), (129, 100), (37, 211), (100, 130), (129, 1001))
CHANGED = ((64, 100), (129, 1001), (256, 1000))
"""Batches on which every option is tried: rows aligned to 8 bytes, unaligned rows, and rows aligned to 16 bytes."""

LARGE = 4_000_000
"""Number of logits from which the float64 reference takes gigabytes."""

SUBSET = (Case(17, 29, FLOAT32), Case(40, 150, FLOAT32, absences=True), Case(40, 150, BFLOAT16), Case(70, 2200, BFLOAT16))
"""The cases that compute-sanitizer checks."""

OPTIONS: tuple[dict[str, Any], ...] = (
    {"absences": True},
    {"loss": "bilateral_loss", "target": "none"},
    {"options": {"positives": "sample"}},
    {"options": {"label_smoothing": 0.1}, "absences": True},
    {"target": "probabilities", "absences": True},
    {"target": "probabilities", "options": {"label_smoothing": 0.1}},
    {"options": {"similarity": "correlation"}},
    {"options": {"similarity": "correlation", "contrast_temperature": 0.02}, "absences": True},
    {"layout": "strided"},
    {"layout": "offset"},
    {"options": {"class_wise_weight": 0.0}},
    {"options": {"sample_wise_weight": 0.0, "ce_weight": 0.0}},
    {"options": {"kd_weight": 0.0}},
    {"options": {"bilateral_weight": 0.0}},
)

NUMBERS: tuple[dict[str, Any], ...] = (
    *({"contrast_temperature": value} for value in (0.02, 0.05, 0.1, 1.0)),
    *({"bilateral_temperature": value} for value in (0.5, 1.0, 4.0)),
    {"kd_temperature": 1.0, "ce_weight": -1.0, "bilateral_weight": 10.0},
)
"""Numeric options, which reuse compiled kernels, except for sharp temperatures with 16-bit logits."""


def cases() -> Iterator[Case]:
    """All batches, the most important first."""
    for shape in (*COMMON, *PATHS):
        yield from (Case(*shape, dtype) for dtype in (FLOAT32, BFLOAT16))
    yield from (Case(*shape, FLOAT16) for shape in COMMON)
    for shape in CHANGED:
        for dtype in (FLOAT32, BFLOAT16):
            yield from (Case(*shape, dtype, **change) for change in OPTIONS)
            yield from (Case(*shape, dtype, options=options) for options in NUMBERS)
    for shape in PATHS:
        yield from (Case(*shape, dtype, options={"similarity": "correlation"}) for dtype in (FLOAT32, BFLOAT16))
    yield Case(2048, 32000, BFLOAT16, loss="bilateral_loss", options={"class_wise_weight": 0.0})
    for dtype in (FLOAT32, BFLOAT16):
        yield Case(1024, 1000, dtype, options={"contrast_temperature": 0.02})
        yield Case(70, 2200, dtype, options={"contrast_temperature": 0.02})
        yield Case(600, 2200, dtype, absences=True)
        yield Case(256, 1000, dtype, absences=True, options={"contrast_temperature": 0.02})
        yield from (Case(*shape, dtype) for shape in SMALL)
    yield from (Case(*shape, FLOAT16) for shape in ((17, 29), (70, 2200), (129, 1001)))


def tasks(folder: Path) -> list[Task]:
    """All tasks of the phase."""
    found = [Task(str(case), partial(check, case, folder), 100) for case in cases()]
    # After the common batches, whose kernels these use.
    in_rows = (Case(256, 1000, FLOAT32), Case(129, 1001, BFLOAT16))
    with_terms = (Case(64, 100, FLOAT32), Case(256, 1000, FLOAT32))
    special = [
        *(Task(f"gradient rows of {case}", partial(check_rows, case)) for case in in_rows),
        *(Task(f"terms of {case}", partial(check_terms, case)) for case in with_terms),
        Task("products of float32 logits as single operands", partial(check_lowered, Case(256, 1000, FLOAT32))),
    ]
    place = 2 * len(COMMON)
    return [*found[:place], *special, *found[place:]]


def check(case: Case, folder: Path | None = None, device: str = "cuda") -> dict[str, Any]:
    """Loss and gradient of two calls."""
    batch = make_batch(case, device)
    actual = evaluate(case, batch, "triton")
    repeated = _equal(actual, evaluate(case, batch, "triton"))
    if folder is None or case.samples * case.classes <= LARGE:
        return _judged(case, actual, definition(case, batch), repeated)
    with alone(folder):
        found = _judged(case, actual, definition(case, batch), repeated)
        torch.cuda.empty_cache()
    return found


def check_rows(case: Case, device: str = "cuda") -> dict[str, Any]:
    """The gradient in parts, as requested by the ranks of a group."""
    batch, settings = make_batch(case, device), BicKDOptions().settings
    rows, kernels = case.samples, choice.load("triton")
    bounds = (0, rows // 3, rows // 3 + 1, rows)

    def parts() -> list[Any]:
        return [kernels.compute(batch, settings, slice(*each)) for each in pairwise(bounds)]

    first, again = parts(), parts()
    joined = torch.cat([part.gradient for part in first])
    repeated = all(_equal((a.loss, a.gradient), (b.loss, b.gradient)) for a, b in zip(first, again, strict=True))
    whole = kernels.compute(batch, settings, slice(0, rows)).gradient
    found = _judged(case, (first[0].loss, joined), definition(case, batch), repeated)
    return {**found, "bits_of_the_whole": _equal([whole], [joined])}


def check_terms(case: Case, device: str = "cuda") -> dict[str, Any]:
    """The terms returned with the loss, one of them of weight 0."""
    student, teacher, target = make_batch(case, device)
    assert target is not None
    options: dict[str, Any] = {"return_terms": True, "kd_weight": 0.0}
    _, terms = bickd_loss(student, teacher, target, backend="triton", **options)
    _, true = bickd_loss(student.double(), teacher.double(), target, backend="reference", **options)
    actual, expected = torch.stack(list(terms)).double(), torch.stack(list(true))
    error = float(((actual - expected).abs() / expected.abs().clamp_min(1.0)).max())
    return {"passed": error <= 1e-6, "loss_error": error, "loss_tolerance": 1e-6}


def check_lowered(case: Case, device: str = "cuda") -> dict[str, Any]:
    """A case in which PyTorch may use TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return check(case, device=device)
    finally:
        torch.set_float32_matmul_precision(before)


def _judged(case: Case, actual: Any, true: Any, repeated: bool) -> dict[str, Any]:
    errors = compare(case, "triton", actual, true)
    dtype = str(case.dtype).removeprefix("torch.")
    return {"passed": errors.passed and repeated, **errors._asdict(), "repeated": repeated, "dtype": dtype}


def _equal(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
