"""The options other than temperatures and weights in the kernels: positives, smoothing, probabilities, similarity."""

from typing import Any

import pytest
import torch
from cases import SHAPES, Inputs, as_double, call, evaluate, make_inputs, with_absences, with_probabilities
from checks import TILED, assert_right, few_logits, step
from simulate import simulator

from bickd_kernels.backends.triton import planning

OPTIONS: dict[str, dict[str, Any]] = {
    "positives by sample": {"positives": "sample"},
    "label smoothing": {"label_smoothing": 0.3},
    "correlation": {"similarity": "correlation"},
    "all of them": {"positives": "sample", "label_smoothing": 0.1, "similarity": "correlation"},
}


def check(inputs: Inputs, **options: Any) -> None:
    """Compares a step, and the terms, with the definition."""
    with simulator():
        actual = step("bickd", inputs, **options)
        loss, terms = call("bickd", inputs, return_terms=True, **options)
    assert_right(actual, "bickd", inputs, **options)
    _, expected = call("bickd", as_double(inputs), return_terms=True, backend="reference", **options)
    torch.testing.assert_close(torch.stack(terms).double(), torch.stack(expected), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss, actual.loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [*SHAPES, TILED])
@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_matches_the_definition(name: str, shape: tuple[int, int]) -> None:
    check(make_inputs(*shape, dtype=torch.float32), **OPTIONS[name])


@pytest.mark.parametrize("in_tiles", [False, True])
@pytest.mark.parametrize("shape", [(19, 7), TILED])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_leave_out_absent_classes_and_ignored_samples(
    name: str, shape: tuple[int, int], in_tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_tiles:
        monkeypatch.setattr(planning, "tile_of_logits", few_logits)
    check(with_absences(make_inputs(*shape, dtype=torch.float32)), **OPTIONS[name])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(5, 3), (3, 11), TILED])
def test_probabilities_as_targets_match_the_definition(shape: tuple[int, int], dtype: torch.dtype, smoothing: float) -> None:
    inputs = with_probabilities(make_inputs(*shape, dtype=torch.float32), ignored=2)
    # Targets need not add up to 1.
    inputs.target[1] *= 1.5
    check(inputs._replace(target=inputs.target.to(dtype)), label_smoothing=smoothing)


@pytest.mark.parametrize("in_tiles", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(9, 7), TILED])
def test_a_row_of_zeros_is_an_ignored_sample(
    shape: tuple[int, int], smoothing: float, in_tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_tiles:
        monkeypatch.setattr(planning, "tile_of_logits", few_logits)
    inputs = make_inputs(*shape, dtype=torch.float32)
    inputs.student[:, 0], inputs.teacher[:, 2] = -torch.inf, -torch.inf
    inputs = with_probabilities(inputs, ignored=4)
    inputs.student[4], inputs.teacher[4] = torch.nan, 5.0
    # Only the ignored sample has the class.
    inputs.student[4, 0] = 1.0
    check(inputs, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_rows_of_zeros_gives_zero(smoothing: float) -> None:
    inputs = make_inputs(4, 5, dtype=torch.float32)
    with simulator():
        loss, gradient = evaluate("bickd", inputs._replace(target=torch.zeros(4, 5)), label_smoothing=smoothing)
    assert loss == 0
    assert torch.count_nonzero(gradient) == 0


def test_a_smoothed_cross_entropy_is_infinite_where_a_sample_excludes_a_class_of_the_batch() -> None:
    inputs = make_inputs(19, 5, dtype=torch.float32)
    inputs.target.fill_(1)
    inputs.student[3, 2], inputs.teacher[3, 2] = -torch.inf, -torch.inf
    options = {"label_smoothing": 0.1, "kd_weight": 0.0, "bilateral_weight": 0.0}
    with simulator():
        assert call("bickd", inputs, **options) == torch.inf
    assert call("bickd", as_double(inputs), backend="reference", **options) == torch.inf


@pytest.mark.parametrize("target", ["labels", "probabilities"])
def test_a_smoothed_cross_entropy_alone_leaves_out_absent_classes(target: str) -> None:
    inputs = with_absences(make_inputs(19, 7, dtype=torch.float32))
    if target == "probabilities":
        inputs.student[1] = 0.0
        inputs.student[:, 0] = -torch.inf
        inputs = with_probabilities(inputs, ignored=1)
    check(inputs, label_smoothing=0.2, kd_weight=0.0, bilateral_weight=0.0)


@pytest.mark.parametrize("cc", [80, 90, 100])
def test_lowering_for_a_gpu_keeps_the_values(cc: int) -> None:
    inputs = with_probabilities(with_absences(make_inputs(*TILED, dtype=torch.float32)), ignored=1)
    with simulator("ttgir", cc):
        actual = step("bickd", inputs, label_smoothing=0.1)
    assert_right(actual, "bickd", inputs, label_smoothing=0.1)


def test_labels_do_not_matter_with_positives_by_sample_and_without_cross_entropy() -> None:
    inputs = make_inputs(20, 30, dtype=torch.float32)
    inputs.target.fill_(3)
    check(inputs, positives="sample", ce_weight=0.0)
