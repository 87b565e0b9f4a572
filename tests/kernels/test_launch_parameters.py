"""Launch parameters that no default of a small shape takes do not show in the numbers."""

from functools import partial
from typing import Any

import pytest
import torch
from cases import KINDS, Inputs, evaluate, make_inputs, typical_errors, with_absences
from checks import FLOAT32_GRADE, SINGLE_FLOAT16, Step, assert_right, step
from simulate import simulator

from bickd_kernels.backends.triton import planning

SHAPE = (70, 140)
"""Samples and classes of 2 and 3 tiles, the last of each not full."""

ROW_OF_TILES = 4 * 64 * 64 * 3
"""The bytes of similarities of one row of tiles of classes."""


def check(kind: str, inputs: Inputs, launches: int, **options: Any) -> None:
    """One step, with a search for races, against the definition."""
    with simulator() as session:
        actual = step(kind, inputs, **options)
    assert session.launches == launches
    assert session.races_unchecked == 0
    assert_right(actual, kind, inputs, **options)


@pytest.mark.parametrize(
    ("kept_bytes", "launches"),
    [(0, 5 + 2 * 3 + 2 * 2), (ROW_OF_TILES, 5 + 2 * 3 + 2 * 2), (2 * ROW_OF_TILES, 5 + 2 * 2), (3 * ROW_OF_TILES, 5)],
)
@pytest.mark.parametrize("kind", ["bickd", "bilateral_unlabelled"])
def test_panels_of_both_sides_and_uneven_ones(
    kind: str, kept_bytes: int, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "KEPT_BYTES", kept_bytes)
    inputs = make_inputs(*SHAPE, dtype=torch.float32)
    check(kind, with_absences(inputs) if kind == "bickd" else inputs, launches)


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1]])
def test_partial_sums_of_one_side_only(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_TILES", 2)
    check("bickd", with_absences(make_inputs(*shape, dtype=torch.bfloat16)), 6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("needed", ["class_wise_weight", "sample_wise_weight"])
def test_partial_sums_where_only_one_side_is_computed(kind: str, needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_TILES", 1)
    inputs = make_inputs(*SHAPE, dtype=torch.float32)
    weights = {"class_wise_weight": 0.0, "sample_wise_weight": 0.0, needed: 0.7}
    with simulator() as session:
        actual = step(kind, inputs, **weights)
    assert session.launches == 6
    assert_right(actual, kind, inputs, **weights)


def test_without_a_class_side_its_partial_sums_are_not_added_up() -> None:
    # More classes than are kept: the partial sums of the class side are added up, where there is one.
    inputs = make_inputs(4, planning.KEPT_CLASSES + 60, dtype=torch.bfloat16)
    with simulator(races="off") as session:
        actual = step("bilateral", inputs, class_wise_weight=0.0)
    assert session.launches == 5
    assert_right(actual, "bilateral", inputs, class_wise_weight=0.0)


@pytest.mark.parametrize(("samples", "dtype"), [(300, torch.bfloat16), (140, torch.float32), (300, torch.float32)])
def test_similarities_are_formed_again_of_as_many_samples_as_fit(
    samples: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "KEPT_CLASSES", 0)
    fits = samples * (2 if dtype == torch.float32 else 1) <= planning.RECOMPUTED_ENTRIES
    check("bickd", make_inputs(samples, 50, dtype=dtype), 6 if fits else 5)


@pytest.mark.parametrize(
    ("dtype", "contrast_temperature", "launches"),
    [
        (torch.float32, 0.2, 6),
        (torch.float32, 0.19, 5),
        (torch.bfloat16, 0.1, 6),
        # Products of 16-bit logits have float32 grade here.
        (torch.bfloat16, 0.09, 5),
    ],
)
def test_similarities_of_float32_grade_are_not_formed_again_for_a_sharp_contrast(
    dtype: torch.dtype, contrast_temperature: float, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "KEPT_CLASSES", 0)
    check("bickd", make_inputs(*SHAPE, dtype=dtype), launches, contrast_temperature=contrast_temperature)


@pytest.mark.parametrize("kept_classes", [2048, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_for_amd(dtype: torch.dtype, kept_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "current_target", lambda: planning.Target("hip", "gfx942", 64))
    monkeypatch.setattr(planning, "KEPT_CLASSES", kept_classes)
    check("bickd", with_absences(make_inputs(*SHAPE, dtype=dtype)), 5 if kept_classes else 6)


@pytest.mark.parametrize("shape", [(20, 1100), (1050, 20)])
def test_tiles_of_128_in_float32(shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, dtype=torch.float32)
    with simulator(races="off") as session:
        actual = step("bickd", inputs)
    assert session.launches == 5
    assert_right(actual, "bickd", inputs)


@pytest.mark.parametrize(("rows", "block"), [(1, 16), (4, 32), (16, 256)])
def test_any_tile_of_rows(rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "tile_of_logits", lambda *_: planning.LogitTile(rows, block, warps=4))
    check("bickd", with_absences(make_inputs(35, 70, dtype=torch.float32)), 5)


@pytest.mark.parametrize("samples", [15, 16, 17, 31, 33, 64, 65, 129])
def test_any_remainder_of_samples(samples: int) -> None:
    check("bickd", make_inputs(samples, 20, dtype=torch.float32), 5)


@pytest.mark.parametrize("contrast_temperature", [0.02, 0.05, 0.1, 0.2, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_typical_errors_stay_within_their_bounds_at_any_sharpness(dtype: torch.dtype, contrast_temperature: float) -> None:
    """The root mean square over several batches, relative to the loss and to the largest entry of the gradient."""

    def by_kernels(inputs: Inputs) -> Step:
        with simulator(races="off"):
            return step("bilateral", inputs, contrast_temperature=contrast_temperature)

    truth = partial(evaluate, "bilateral", backend="reference", contrast_temperature=contrast_temperature)
    exact = dtype == torch.float32 or contrast_temperature < 0.1
    for shape in ((40, 100), (100, 40)):
        loss, gradient = typical_errors(
            by_kernels, truth, [make_inputs(*shape, dtype=dtype, seed=seed) for seed in range(4)]
        )
        assert loss <= (1e-6 if exact else 1e-4)
        assert gradient <= (FLOAT32_GRADE if exact else SINGLE_FLOAT16)
