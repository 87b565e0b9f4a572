"""Split-fp16 products keep their float32-level error on tensor cores, which truncate where a float32 sum rounds.

The kernels are executed after they are lowered for a GPU, so that a compiler that merged the separate sums would show.
Errors are root mean squares over two batches, with students that are unrelated to their teacher or have nearly its logits.
The latter have similarities near 1, where truncation costs most.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from cases import Inputs, evaluate, make_inputs, typical_errors
from checks import FLOAT32_GRADE, Step, step
from simulate import simulator

from bickd_kernels.backends.triton import planning

GPUS = [("a100", 80), ("h100", 90)]
"""Models of tensor cores, and the compute capabilities of their GPUs."""


class Path(NamedTuple):
    """A shape, the launches of a step, and the parameters of ``planning`` for it."""

    shape: tuple[int, int]
    launches: int
    parameters: dict[str, Any]


KEPT = Path((70, 200), 6, {})
PANELS = Path((70, 200), 7 + 2 * 2 + 2 * 2, {"CACHED_BYTES": 0, "KEPT_BYTES": 0})

CASES = {
    "kept": (KEPT, 0.2),
    "kept, sharp": (KEPT, 0.02),
    "panels": (PANELS, 0.2),
    "panels, sharp": (PANELS, 0.02),
}
"""Paths and contrast temperatures, the default and the sharpest that take the path."""


def unrelated(shape: tuple[int, int], seed: int) -> Inputs:
    """A student whose logits are unrelated to its teacher's."""
    return make_inputs(*shape, dtype=torch.float32, seed=seed)


def alike(shape: tuple[int, int], seed: int) -> Inputs:
    """A student with the logits of its teacher plus a tenth of random ones."""
    inputs = unrelated(shape, seed)
    return inputs._replace(student=inputs.teacher + 0.1 * inputs.student)


@pytest.mark.parametrize(("products", "cc"), GPUS)
@pytest.mark.parametrize("students", [unrelated, alike])
@pytest.mark.parametrize("case", CASES)
def test_every_path_has_float32_level_error(
    case: str,
    students: Callable[[tuple[int, int], int], Inputs],
    products: str,
    cc: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, contrast_temperature = CASES[case]
    for name, value in path.parameters.items():
        monkeypatch.setattr(planning, name, value)

    def by_kernels(inputs: Inputs) -> Step:
        with simulator("ttgir", cc, races="off", products=products) as session:
            result = step("bilateral", inputs, contrast_temperature=contrast_temperature)
        assert session.launches == path.launches
        return result

    truth = partial(evaluate, "bilateral", backend="reference", contrast_temperature=contrast_temperature)
    loss, gradient = typical_errors(by_kernels, truth, [students(path.shape, seed) for seed in range(2)])
    assert loss <= 1e-6
    assert gradient <= FLOAT32_GRADE
