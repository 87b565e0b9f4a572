"""Correlations in the kernels: centred vectors on every path, and constant vectors, which have no direction."""

import pytest
import torch
from cases import (
    Inputs,
    as_double,
    batch_of,
    call,
    constant_sample,
    equal_samples,
    evaluate,
    make_inputs,
    relative_error,
    settings_of,
    with_absences,
)
from checks import DTYPES, FLOAT32_GRADE, LAUNCHES, NOTHING, PATHS, TILED, Step, assert_right, few_logits, single, step, take
from simulate import simulator

from bickd_kernels.backends.triton import planning, stages

CORRELATION = {"similarity": "correlation"}


@pytest.fixture(params=["whole vectors", "vectors in tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes means and squares of whole vectors at once, or joins them from several tiles of rows and columns."""
    if request.param == "vectors in tiles":
        monkeypatch.setattr(planning, "tile_of_logits", few_logits)
        monkeypatch.setattr(planning, "RESIDENT_SAMPLES", 16)


def assert_as_exact_as_float32(inputs: Inputs, **options: float) -> None:
    """Compares the error of a gradient with that of the definition in float32, for inputs that cost float32 digits."""
    with simulator(races="off"):
        actual = step("bilateral", inputs, **options, **CORRELATION)
    truth = evaluate("bilateral", as_double(inputs), backend="reference", **options, **CORRELATION)[1]
    in_float32 = evaluate("bilateral", inputs, backend="reference", **options, **CORRELATION)[1]
    assert relative_error(actual.gradient, truth) <= 2 * relative_error(in_float32, truth) + FLOAT32_GRADE


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("path", list(PATHS))
def test_every_path_matches_the_definition(path: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = with_absences(make_inputs(*take(path, monkeypatch), dtype=dtype))
    with simulator() as session:
        actual = step("bickd", inputs, **CORRELATION)
    assert session.launches == LAUNCHES[path]
    assert_right(actual, "bickd", inputs, **CORRELATION)


@pytest.mark.parametrize("path", ["kept", "panels", "class statistics in blocks"])
@pytest.mark.parametrize("cc", [80, 90, 100])
def test_lowering_for_a_gpu_keeps_the_values(cc: int, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = with_absences(make_inputs(*take(path, monkeypatch), dtype=torch.float32))
    with simulator("ttgir", cc):
        actual = step("bickd", inputs, **CORRELATION)
    assert_right(actual, "bickd", inputs, **CORRELATION)


@pytest.mark.parametrize("contrast_temperature", [0.02, 1.0])
def test_sharp_and_soft_contrasts_match_the_definition(contrast_temperature: float) -> None:
    options = {**CORRELATION, "contrast_temperature": contrast_temperature}
    inputs = single(*TILED)
    # A class that student and teacher predict in opposite ways: a similarity near -1.
    inputs.student[:, 0] = -inputs.teacher[:, 0]
    with simulator(races="off"):
        actual = step("bilateral", inputs, **options)
    assert_right(actual, "bilateral", inputs, **options)


@pytest.mark.parametrize("terms", ["class_wise_weight", "sample_wise_weight"])
def test_either_side_alone_matches_the_definition(terms: str) -> None:
    inputs = with_absences(single(19, 7))
    # Without smoothing, only correlations count the classes of the batch; here one is absent from both networks.
    inputs.student[:, 4], inputs.teacher[:, 4] = -torch.inf, -torch.inf
    inputs.target[inputs.target == 4] = 3
    options = {**CORRELATION, terms: 0.0}
    with simulator():
        actual = step("bilateral", inputs, **options)
    assert_right(actual, "bilateral", inputs, **options)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("degenerate", [constant_sample, equal_samples])
def test_a_constant_vector_has_no_direction(degenerate: object) -> None:
    inputs = single(*TILED)
    degenerate(inputs)
    with simulator():
        actual = step("bilateral", inputs, **CORRELATION)
    assert_right(actual, "bilateral", inputs, **CORRELATION)


@pytest.mark.usefixtures("tiles")
def test_a_constant_sample_gets_no_gradient_from_the_sample_side() -> None:
    inputs = single(*TILED)
    constant_sample(inputs)
    with simulator():
        _, gradient = evaluate("bilateral", inputs, class_wise_weight=0.0, **CORRELATION)
    assert torch.count_nonzero(gradient[2]) == 0
    assert gradient[3].abs().max() > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (19, 1)])
def test_one_sample_or_one_class_correlates_with_nothing(shape: tuple[int, int]) -> None:
    inputs = single(*shape)
    with simulator():
        loss, gradient = evaluate("bilateral", inputs, **CORRELATION)
    expected, _ = evaluate("bilateral", as_double(inputs), backend="reference", **CORRELATION)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    assert gradient.abs().max() <= NOTHING


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("spread", [1e-1, 1e-3])
def test_nearly_constant_vectors_are_about_as_accurate_as_the_definition_in_float32(spread: float) -> None:
    inputs = single(*TILED)
    assert_as_exact_as_float32(inputs._replace(student=inputs.student * spread, teacher=inputs.teacher * spread))


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_an_invalid_row_makes_the_loss_nan(poison: float, side: str) -> None:
    inputs = single(*TILED)
    getattr(inputs, side)[66] = poison
    with simulator(races="off"):
        loss, terms = call("bilateral", inputs, return_terms=True, **CORRELATION)
    assert loss.isnan()
    assert all(term.isnan() for term in terms)


def test_a_batch_of_ignored_rows_gives_zero() -> None:
    inputs = single(4, 5)
    inputs.target.fill_(-100)
    inputs.student[1:], inputs.teacher[:2] = torch.nan, torch.inf
    with simulator():
        loss, gradient = evaluate("bilateral", inputs, **CORRELATION)
    assert loss == 0
    assert torch.count_nonzero(gradient) == 0


def test_columns_of_tiny_probabilities_keep_their_direction() -> None:
    inputs = single(40, 12)
    # Probabilities around 1e-22, whose squares underflow in float32.
    inputs.student[:, 3] -= 100.0
    inputs.teacher[:, 3] -= 100.0
    assert_as_exact_as_float32(inputs, sample_wise_weight=0.0)


def test_a_saturated_batch_is_finite() -> None:
    inputs = Inputs(1e4 * torch.eye(6), 1e4 * torch.eye(6).roll(1, 0), torch.arange(6))
    with simulator():
        loss, gradient = evaluate("bickd", inputs, **CORRELATION)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_the_parts_of_a_gradient_join_to_the_whole() -> None:
    inputs = with_absences(single(*TILED))
    batch, settings = batch_of("bickd", inputs), settings_of("bickd", **CORRELATION)
    with simulator(races="off"):
        parts = [stages.compute(batch, settings, rows) for rows in (slice(0, 30), slice(30, 70))]
    gradient = torch.cat([part.gradient for part in parts])
    assert_right(Step(parts[0].loss, gradient), "bickd", inputs, **CORRELATION)


def test_two_calls_give_the_same_bits() -> None:
    inputs = single(*TILED)
    with simulator(races="off"):
        first, second = step("bickd", inputs, **CORRELATION), step("bickd", inputs, **CORRELATION)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.gradient, second.gradient)


def test_auto_selects_the_kernels_on_a_gpu() -> None:
    with simulator() as session:
        evaluate("bickd", single(19, 5), **CORRELATION)
    assert session.launches == 6
