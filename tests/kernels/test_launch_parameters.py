"""Launch parameters that small shapes do not get by default give the same results."""

from functools import partial
from typing import Any

import pytest
import torch
from cases import KINDS, Inputs, evaluate, make_inputs, typical_errors, with_absences
from checks import FLOAT32_GRADE, SINGLE_FLOAT16, Step, assert_right, step
from simulate import simulator

from bickd_kernels.backends.triton import planning

SHAPE = (70, 140)
"""2 tiles of samples and 3 of classes, the last of each partly filled."""

COLUMN_OF_TILES = 4 * 64 * 64 * 3
"""The bytes of the derivatives of one column of class tiles, with float32-level error."""


def check(kind: str, inputs: Inputs, launches: int, **options: Any) -> None:
    """Compares one step with the definition, and searches it for races."""
    with simulator() as session:
        actual = step(kind, inputs, **options)
    assert session.launches == launches
    assert session.races_unchecked == 0
    assert_right(actual, kind, inputs, **options)


@pytest.mark.parametrize(
    ("panel_bytes", "panels"), [(0, 3 + 2), (COLUMN_OF_TILES, 3 + 2), (2 * COLUMN_OF_TILES, 2 + 2), (2**30, 2 + 2)]
)
@pytest.mark.parametrize("kind", ["bickd", "bilateral_unlabelled"])
def test_even_and_uneven_panels_of_both_sides_match_the_definition(
    kind: str, panel_bytes: int, panels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "CACHED_BYTES", 0)
    monkeypatch.setattr(planning, "KEPT_BYTES", 0)
    monkeypatch.setattr(planning, "PANEL_BYTES", panel_bytes)
    inputs = make_inputs(*SHAPE, dtype=torch.float32)
    check(kind, with_absences(inputs) if kind == "bickd" else inputs, 7 + 2 * panels)


@pytest.mark.parametrize("contrast_temperature", [0.02, 0.5])
def test_recomputed_similarities_are_those_that_were_summed(
    contrast_temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0.02, a difference by rounding would change the exponential by 1e-5."""
    inputs = make_inputs(*SHAPE, dtype=torch.float32)
    inputs = inputs._replace(student=inputs.teacher + 0.1 * inputs.student)
    monkeypatch.setattr(planning, "CACHED_BYTES", 0)
    monkeypatch.setattr(planning, "KEPT_BYTES", 0)
    check("bilateral", inputs, 7 + 2 * 2 + 2 * 2, contrast_temperature=contrast_temperature)


@pytest.mark.parametrize(
    ("samples", "classes", "parts", "kept"),
    [
        (64, 2048, 1, True),
        (64, 2049, 1, False),
        (512, 4096, 1, True),
        (384, 4096, 1, False),
        (256, 4096, 2, True),
        (128, 4096, 2, False),
        (512, 4097, 2, False),
    ],
)
def test_a_large_matrix_is_kept_where_its_products_are_long(samples: int, classes: int, parts: int, kept: bool) -> None:
    plan = planning.plan(samples, classes, parts, planning.Target("cuda", "90", 32))
    assert (len(plan.class_panels) == 1) == kept
    assert len(plan.sample_panels(0, samples)) == 1


@pytest.mark.parametrize("parts", [1, 2])
def test_panels_cover_a_side_within_their_budget(parts: int) -> None:
    plan = planning.plan(256, 21841, parts, planning.Target("cuda", "90", 32))
    panels = plan.class_panels
    assert [panel.first_column for panel in panels[1:]] == [panel.first_column + panel.columns for panel in panels[:-1]]
    assert panels[0].first_column == 0
    assert panels[-1].first_column + panels[-1].columns == plan.class_tiles
    for panel in panels:
        assert (panel.first_row, panel.rows) == (0, plan.class_tiles)
        assert 2 * parts * panel.rows * panel.columns * plan.tile**2 <= planning.PANEL_BYTES


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1]])
def test_partial_sums_of_one_side_match_the_definition(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_TILES", 2)
    check("bickd", with_absences(make_inputs(*shape, dtype=torch.bfloat16)), 7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("needed", ["class_wise_weight", "sample_wise_weight"])
def test_partial_sums_match_the_definition_where_only_one_side_is_computed(
    kind: str, needed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "MAX_TILES", 1)
    inputs = make_inputs(*SHAPE, dtype=torch.float32)
    weights = {"class_wise_weight": 0.0, "sample_wise_weight": 0.0, needed: 0.7}
    with simulator() as session:
        actual = step(kind, inputs, **weights)
    assert session.launches == 7
    assert_right(actual, kind, inputs, **weights)


def test_without_a_class_side_its_partial_sums_are_not_added_up() -> None:
    # More classes than are kept: with a class side, a launch would add up its partial sums.
    inputs = make_inputs(4, 2100, dtype=torch.bfloat16)
    with simulator(races="off") as session:
        actual = step("bilateral", inputs, class_wise_weight=0.0)
    assert session.launches == 6
    assert_right(actual, "bilateral", inputs, class_wise_weight=0.0)


@pytest.mark.parametrize("kept_bytes", [2**24, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_for_amd_match_the_definition(
    dtype: torch.dtype, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "current_target", lambda: planning.Target("hip", "gfx942", 64))
    monkeypatch.setattr(planning, "CACHED_BYTES", kept_bytes)
    monkeypatch.setattr(planning, "KEPT_BYTES", kept_bytes)
    check("bickd", with_absences(make_inputs(*SHAPE, dtype=dtype)), 6 if kept_bytes else 7 + 2 * 2 + 2 * 2)


@pytest.mark.parametrize("shape", [(20, 1300), (1290, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_of_128_match_the_definition(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, dtype=dtype)
    with simulator(races="off") as session:
        actual = step("bickd", inputs)
    assert session.launches == 6
    assert_right(actual, "bickd", inputs)


@pytest.mark.parametrize(("arch", "parts", "tile"), [("80", 1, 128), ("80", 2, 64), ("90", 2, 128), ("100", 2, 128)])
def test_split_fp16_tiles_are_small_where_operands_lie_in_registers(arch: str, parts: int, tile: int) -> None:
    assert planning.plan(1024, 1000, parts, planning.Target("cuda", arch, 32)).tile == tile


@pytest.mark.parametrize(("rows", "block"), [(1, 16), (4, 32), (16, 256)])
def test_any_tile_of_logits_matches_the_definition(rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "tile_of_logits", lambda *_: planning.LogitTile(rows, block, warps=4))
    check("bickd", with_absences(make_inputs(35, 70, dtype=torch.float32)), 6)


@pytest.mark.parametrize("samples", [15, 16, 17, 31, 33, 64, 65, 129])
def test_any_remainder_of_samples_matches_the_definition(samples: int) -> None:
    check("bickd", make_inputs(samples, 20, dtype=torch.float32), 6)


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
