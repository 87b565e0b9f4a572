"""The kernels, executed from their intermediate code, match the float64 definition on every path, shape and dtype."""

from collections.abc import Iterator

import pytest
import torch
from cases import KINDS, ROUNDING, SHAPES, as_double, call, evaluate, make_inputs, relative_error, with_absences
from checks import DTYPES, FLOAT32_GRADE, LAUNCHES, PATH_SHAPE, PATHS, SINGLE_FLOAT16, assert_right, step, take
from simulate import simulator

from bickd_kernels.backends.triton import planning

LARGER_SHAPES = ((211, 37), (37, 211), (1, 307), (307, 1), (5, 100), (6, 1000), (3, 1024))


@pytest.fixture
def high_precision() -> Iterator[None]:
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("shape", SHAPES + LARGER_SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_matches_the_definition(kind: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, dtype=dtype)
    with simulator() as session:
        actual = step(kind, inputs)
    # The simulator does not search a launch with very many accesses for races; other shapes run the same kernels.
    assert session.races_unchecked == 0 or max(shape) >= 1000
    assert session.launches == 6
    assert_right(actual, kind, inputs)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("path", list(PATHS))
def test_every_path_matches_the_definition(path: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = with_absences(make_inputs(*take(path, monkeypatch), dtype=dtype))
    with simulator() as session:
        actual = step("bickd", inputs)
    assert session.launches == LAUNCHES[path]
    assert session.races_unchecked == 0
    assert_right(actual, "bickd", inputs)


@pytest.mark.parametrize("path", ["kept", "panels"])
@pytest.mark.parametrize("stage_and_cc", [("ttgir", 80), ("ttgir", 90), ("ttgir", 100)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lowering_for_a_gpu_keeps_the_values(
    dtype: torch.dtype, stage_and_cc: tuple[str, int], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = with_absences(make_inputs(*take(path, monkeypatch), dtype=dtype))
    with simulator(*stage_and_cc):
        actual = step("bickd", inputs)
    assert_right(actual, "bickd", inputs)


@pytest.mark.parametrize("cc", [80, 90, 100])
@pytest.mark.parametrize("path", ["partial sums", "class statistics in blocks"])
def test_lowering_for_a_gpu_keeps_the_values_of_large_problems(path: str, cc: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(*take(path, monkeypatch), dtype=torch.bfloat16)
    with simulator("ttgir", cc):
        actual = step("bilateral_unlabelled", inputs)
    assert_right(actual, "bilateral_unlabelled", inputs)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_more_classes_than_are_kept_match_the_definition(dtype: torch.dtype) -> None:
    inputs = make_inputs(16, 2100, dtype=dtype)
    with simulator(races="off") as session:
        actual = step("bickd", inputs)
    # The sums of the class side, and two panels: all columns of tiles but the last, and the last.
    assert session.launches == 7 + 2 * 2
    assert_right(actual, "bickd", inputs)


@pytest.mark.parametrize("contrast_temperature", [0.02, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_contrast_temperature_matches_the_definition(dtype: torch.dtype, contrast_temperature: float) -> None:
    inputs = make_inputs(*PATH_SHAPE, dtype=dtype)
    with simulator(races="off"):
        actual = step("bickd", inputs, contrast_temperature=contrast_temperature)
    assert_right(actual, "bickd", inputs, contrast_temperature=contrast_temperature)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.5, "kd_temperature": 1.0}, {"temperature": 7.0, "kd_temperature": 2.5}]
)
def test_other_temperatures_match_the_definition(options: dict[str, float]) -> None:
    inputs = make_inputs(20, 30, dtype=torch.float32)
    with simulator():
        actual = step("bickd", inputs, **options)
    assert_right(actual, "bickd", inputs, **options)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("contrast_temperature", [0.1, 0.2, 1.0])
def test_a_sharp_softmax_of_16_bit_logits_is_as_accurate_as_one_of_float32_logits(
    dtype: torch.dtype, contrast_temperature: float
) -> None:
    options = {"temperature": 0.3, "contrast_temperature": contrast_temperature}
    inputs = make_inputs(16, 64, dtype=dtype, seed=2)
    with simulator():
        actual = step("bilateral_unlabelled", inputs, **options)
    _, expected = evaluate("bilateral_unlabelled", as_double(inputs), backend="reference", **options)
    # A softmax amplifies the rounding errors of its logits by the inverse of its temperature.
    assert relative_error(actual.gradient, expected) <= FLOAT32_GRADE / 0.3


@pytest.mark.usefixtures("high_precision")
def test_float32_products_follow_the_precision_that_pytorch_allows() -> None:
    inputs = make_inputs(*PATH_SHAPE, dtype=torch.float32)
    assert planning.parts_of(torch.float32, 16, 16, temperature=2.0, contrast_temperature=0.2) == 1
    with simulator(races="off"):
        lowered = step("bickd", inputs)
        torch.set_float32_matmul_precision("highest")
        exact = step("bickd", inputs)
    assert not torch.equal(lowered.gradient, exact.gradient)
    assert_right(exact, "bickd", inputs)
    torch.set_float32_matmul_precision("high")
    assert_right(lowered, "bickd", inputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_has_the_dtype_of_the_student(dtype: torch.dtype) -> None:
    inputs = make_inputs(*PATH_SHAPE, dtype=dtype)
    with simulator(races="off"):
        loss, gradient = evaluate("bickd", inputs)
    _, expected = evaluate("bickd", as_double(inputs), backend="reference")
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    # Half a unit in the last place of the largest entry, and the error before rounding.
    grade = FLOAT32_GRADE if dtype == torch.float32 else SINGLE_FLOAT16
    assert relative_error(gradient, expected) <= ROUNDING[dtype] + grade


def test_without_a_gradient_only_the_launches_of_the_loss_run() -> None:
    inputs = make_inputs(*PATH_SHAPE, dtype=torch.float32)
    with simulator() as session:
        loss = call("bickd", inputs)
    assert session.launches == 4
    assert not loss.requires_grad
    expected = call("bickd", as_double(inputs), backend="reference")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("path", ["kept", "panels"])
def test_two_calls_give_the_same_bits(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(*take(path, monkeypatch), dtype=torch.float32)
    with simulator(races="off"):
        first, second = step("bickd", inputs), step("bickd", inputs)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.gradient, second.gradient)
