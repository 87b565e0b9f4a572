"""The table of edge cases in docs/loss.md, for the kernels."""

import contextlib
import itertools
import math
from typing import Any

import pytest
import torch
from cases import (
    KINDS,
    LABELLED_KINDS,
    POISONS,
    ROUNDING,
    SATURATED,
    Inputs,
    as_double,
    call,
    evaluate,
    keep_rows,
    make_inputs,
    poisoned,
    saturated,
    with_absences,
)
from checks import FLOAT32_GRADE, NOTHING, SINGLE_FLOAT16, TILED, few_logits, single
from simulate import simulator
from torch import Tensor

from bickd_kernels import bickd_loss, bilateral_loss
from bickd_kernels.backends.triton import planning

GARBAGE = (torch.nan, torch.inf, -torch.inf, 1e30)

SIDES = [("student",), ("teacher",), ("student", "teacher")]

SMALLEST = {torch.float32: 0.0, torch.bfloat16: 0.0, torch.float16: 2**-25}
"""Absolute rounding error of a gradient entry: half the smallest positive number of its dtype."""


def computed(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient from the kernels."""
    with simulator() as session:
        result = evaluate(kind, inputs, **options)
        assert session.launches > 0
        assert session.races_unchecked == 0
    return result


def computed_terms(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss and terms from the kernels."""
    with simulator() as session:
        loss, terms = call(kind, inputs, return_terms=True, **options)
        assert session.launches > 0
    return loss, tuple(terms)


def expected_terms(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss and terms by definition, for the same numbers in float64."""
    loss, terms = call(kind, as_double(inputs), return_terms=True, backend="reference", **options)
    return loss, tuple(terms)


def assert_terms_are_those_of_the_definition(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, ...]:
    (loss, terms), (true_loss, true_terms) = computed_terms(kind, inputs, **options), expected_terms(kind, inputs, **options)
    for actual, true in zip((loss, *terms), (true_loss, *true_terms), strict=True):
        torch.testing.assert_close(actual.double(), true, rtol=1e-6, atol=1e-6, equal_nan=True)
    return terms


def assert_close_to(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], grade: float = FLOAT32_GRADE) -> None:
    """Compares loss and gradient; the bound allows for the rounding of the gradient to its dtype."""
    loss, gradient = actual
    true_loss, true_gradient = expected
    assert loss.dtype == torch.float32
    assert true_loss.isfinite()
    torch.testing.assert_close(loss.double(), true_loss, rtol=1e-6 if grade == FLOAT32_GRADE else 1e-4, atol=1e-6)
    bound = (grade + ROUNDING[gradient.dtype]) * float(true_gradient.abs().max()) + NOTHING + SMALLEST[gradient.dtype]
    assert float((gradient.double() - true_gradient).abs().max()) <= bound


def assert_is_the_definition(kind: str, inputs: Inputs, grade: float = FLOAT32_GRADE, **options: Any) -> Tensor:
    """Compares a step with the definition, and returns the gradient."""
    actual = computed(kind, inputs, **options)
    assert_close_to(actual, evaluate(kind, as_double(inputs), backend="reference", **options), grade)
    return actual[1]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_an_ignored_row_is_as_if_it_were_not_in_the_batch(kind: str, garbage: float) -> None:
    inputs = single(19, 5)
    inputs.target[[0, 4, 18]] = -100
    inputs.student[0], inputs.teacher[4], inputs.student[18] = garbage, garbage, garbage
    inputs.student[4, 1] = garbage
    keep = inputs.target != -100
    loss, gradient = computed(kind, inputs)
    alone = evaluate(kind, as_double(keep_rows(inputs, keep)), backend="reference")
    assert_close_to((loss, gradient[keep]), alone)
    assert torch.equal(gradient[~keep], torch.zeros(3, 5))
    assert_terms_are_those_of_the_definition(kind, inputs)


@pytest.mark.parametrize("first", [0, 3])
def test_whole_tiles_of_ignored_rows_are_as_if_they_were_not_in_the_batch(first: int) -> None:
    inputs = single(140, 20)
    inputs.target[first : first + 130] = -100
    inputs.student[first : first + 130] = torch.nan
    inputs.teacher[first : first + 130, 3] = torch.inf
    gradient = assert_is_the_definition("bickd", inputs)
    assert torch.count_nonzero(gradient[first : first + 130]) == 0


@pytest.mark.parametrize("ignore_index", [0, 2, 255, -1])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_ignore_index_may_be_any_integer_even_that_of_a_class(kind: str, ignore_index: int) -> None:
    inputs = single(19, 5)
    inputs.target[2] = ignore_index
    gradient = assert_is_the_definition(kind, inputs, ignore_index=ignore_index)
    assert torch.count_nonzero(gradient[inputs.target == ignore_index]) == 0


@pytest.mark.parametrize("garbage", [0.0, *GARBAGE])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_a_batch_of_ignored_rows_gives_zero(kind: str, garbage: float) -> None:
    inputs = single(4, 5)
    inputs.target.fill_(-100)
    inputs.student[1:], inputs.teacher[:2] = garbage, garbage
    loss, gradient = computed(kind, inputs)
    _, terms = computed_terms(kind, inputs)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros(4, 5))
    assert all(term == 0 for term in terms)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_samples_gives_zero(kind: str, shape: tuple[int, ...]) -> None:
    inputs = Inputs(torch.zeros(shape), torch.zeros(shape), torch.zeros(shape[:-1], dtype=torch.int64))
    with simulator() as session:
        loss, gradient = evaluate(kind, inputs, backend="triton")
        assert session.launches == 0
    assert loss == 0
    assert gradient.shape == shape


@pytest.mark.parametrize("classes", [1, 31, 130])
def test_one_sample_has_a_sample_wise_term_of_0_and_a_class_wise_term_of_log_c(classes: int) -> None:
    inputs = single(1, classes)
    loss, gradient = computed("bilateral", inputs)
    _, (class_wise, sample_wise) = computed_terms("bilateral", inputs)
    assert abs(float(sample_wise)) <= 1e-6
    assert float(class_wise) == pytest.approx(math.log(classes), rel=1e-6, abs=1e-6)
    assert float(loss) == pytest.approx(math.log(classes), rel=1e-6, abs=1e-6)
    assert gradient.abs().max() <= NOTHING


def test_one_valid_sample_gives_the_result_of_one_sample() -> None:
    inputs = single(19, 6)
    inputs.target[:18] = -100
    loss, gradient = computed("bilateral", inputs)
    assert float(loss) == pytest.approx(math.log(6), rel=1e-6)
    assert gradient.abs().max() <= NOTHING


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_class_absent_from_every_row_does_not_belong_to_the_batch(kind: str, sides: tuple[str, ...]) -> None:
    inputs = single(19, 7)
    inputs.target[(inputs.target == 1) | (inputs.target == 4)] = 0
    for side in sides:
        getattr(inputs, side)[:, [1, 4]] = -torch.inf
    gradient = assert_is_the_definition(kind, inputs)
    assert_terms_are_those_of_the_definition(kind, inputs)
    if kind != "bickd":
        assert torch.count_nonzero(gradient[:, [1, 4]]) == 0


@pytest.mark.parametrize("sides", SIDES)
def test_an_absent_class_has_a_gradient_from_the_cross_entropy_alone(sides: tuple[str, ...]) -> None:
    inputs = single(19, 5)
    inputs.target.fill_(2)
    for side in sides:
        getattr(inputs, side)[:, 3] = -torch.inf
    gradient = assert_is_the_definition("bickd", inputs)
    cross_entropy_gradient = torch.softmax(inputs.student.double(), 1)[:, 3] * 0.1 / 19
    # An exponent between -32 and 0 after three roundings of at most 2^-20 each.
    torch.testing.assert_close(gradient[:, 3].double(), cross_entropy_gradient, rtol=3 * 2**-20, atol=0)
    without = assert_is_the_definition("bickd", inputs, ce_weight=0.0)
    assert torch.count_nonzero(without[:, 3]) == 0


@pytest.mark.parametrize("sides", SIDES)
def test_absent_classes_in_several_tiles_do_not_belong_to_the_batch(sides: tuple[str, ...]) -> None:
    inputs = single(*TILED)
    absent = [0, 17, *range(64, 128), 149]
    inputs.target[torch.isin(inputs.target, torch.tensor(absent))] = 1
    for side in sides:
        getattr(inputs, side)[:, absent] = -torch.inf
    gradient = assert_is_the_definition("bickd", inputs)
    assert_terms_are_those_of_the_definition("bickd", inputs)
    assert gradient.isfinite().all()


def test_classes_absent_from_student_teacher_or_both_may_occur_together() -> None:
    inputs = single(*TILED)
    inputs.target.fill_(100)
    inputs.student[:, :50] = -torch.inf
    inputs.teacher[:, 30:90] = -torch.inf
    inputs.student[:, 140:], inputs.teacher[:, 140:] = -torch.inf, -torch.inf
    assert_is_the_definition("bickd", inputs)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_only_valid_rows_decide_whether_a_class_is_absent(kind: str, sides: tuple[str, ...]) -> None:
    inputs = single(40, 4)
    inputs.target.fill_(1)
    inputs.target[[2, 39]] = -100
    for side in sides:
        getattr(inputs, side)[:, 0] = -torch.inf
        getattr(inputs, side)[2, 0] = 3.0
        getattr(inputs, side)[39, 0] = torch.nan
    gradient = assert_is_the_definition(kind, inputs)
    if kind == "bilateral" or sides != ("teacher",):
        assert torch.count_nonzero(gradient[:, 0]) == 0


@pytest.mark.parametrize("row", [0, 18, 69])
def test_a_class_of_a_single_row_belongs_to_the_batch(row: int) -> None:
    inputs = single(70, 20)
    inputs.target.fill_(1)
    present = torch.arange(70) == row
    # The KL divergence would be infinite where only the student has probability 0.
    inputs.student[~present, 7] = -torch.inf
    inputs.teacher[~present, 7] = -torch.inf
    gradient = assert_is_the_definition("bickd", inputs)
    assert gradient[row, 7] != 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_absent_from_some_rows_belongs_to_the_batch(kind: str) -> None:
    inputs = single(19, 4)
    inputs.target.fill_(1)
    inputs.student[[0, 3], 2] = -torch.inf
    inputs.teacher[[0, 1, 3], 2] = -torch.inf
    gradient = assert_is_the_definition(kind, inputs)
    assert torch.count_nonzero(gradient[[1, 2, 4], 2]) == 3


def test_targets_may_name_an_absent_class() -> None:
    inputs = single(19, 4)
    inputs.teacher[:, 3] = -torch.inf
    assert (inputs.target == 3).any()
    assert_is_the_definition("bilateral", inputs)
    assert_is_the_definition("bickd", inputs)


def test_cross_entropy_is_infinite_for_a_label_that_the_student_excludes() -> None:
    inputs = single(19, 4)
    inputs.student[:, 3] = -torch.inf
    assert (inputs.target == 3).any()
    terms = assert_terms_are_those_of_the_definition("bickd", inputs)
    assert terms[0] == torch.inf
    assert all(term.isfinite() for term in terms[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_class_in_common_the_loss_is_nan(kind: str) -> None:
    inputs = single(19, 4)
    inputs.target.fill_(2)
    inputs.student[:, :2], inputs.teacher[:, 2:] = -torch.inf, -torch.inf
    terms = assert_terms_are_those_of_the_definition(kind, inputs)
    assert computed(kind, inputs)[0].isnan()
    if kind == "bickd":
        assert terms[0].isfinite()
        terms = terms[1:]
    assert all(term.isnan() for term in terms)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_invalid_row_makes_the_loss_nan(kind: str, side: str, poison: str) -> None:
    dtype = torch.float16 if kind == "bickd" else torch.float32
    for samples in (1, 19):
        inputs = poisoned(make_inputs(samples, 4, dtype=dtype), side, samples - 1, poison)
        loss, _ = computed(kind, inputs)
        assert loss.isnan()


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_an_invalid_row_makes_every_term_that_uses_it_nan(side: str, poison: str) -> None:
    inputs = single(19, 4)
    terms = assert_terms_are_those_of_the_definition("bickd", poisoned(inputs, side, 7, poison))
    assert all(term.isnan() for term in terms[1:])
    # Cross-entropy does not involve the teacher.
    assert terms[0].isnan() == (side == "student")


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("weight", ["ce_weight", "kd_weight", "class_wise_weight", "sample_wise_weight"])
def test_an_invalid_row_makes_each_term_alone_nan_if_the_term_uses_it(weight: str, side: str, poison: str) -> None:
    inputs = poisoned(single(19, 4), side, 3, poison)
    weights = {"ce_weight": 0.0, "kd_weight": 0.0, "class_wise_weight": 0.0, "sample_wise_weight": 0.0, weight: 1.0}
    with simulator():
        loss = bickd_loss(*inputs, **weights)
    assert loss.isnan() == (weight != "ce_weight" or side == "student")


@pytest.mark.parametrize("place", [(66, 3), (69, 149)])
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_an_invalid_row_in_any_tile_makes_the_terms_nan(side: str, poison: str, place: tuple[int, int]) -> None:
    row, column = place
    inputs = poisoned(single(*TILED), side, row, poison, column)
    with simulator(races="off"):
        _, terms = bilateral_loss(*inputs, return_terms=True)
    assert all(term.isnan() for term in terms)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_an_invalid_row_beside_absent_classes_and_ignored_rows_makes_the_terms_nan(side: str, poison: str) -> None:
    inputs = poisoned(with_absences(single(19, 7)), side, 16, poison, column=4)
    terms = assert_terms_are_those_of_the_definition("bickd", inputs)
    assert all(term.isnan() for term in terms[1:])


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_an_invalid_row_of_one_class_makes_the_loss_nan(side: str, poison: str) -> None:
    inputs = poisoned(single(19, 1), side, 5, poison, column=0)
    assert_terms_are_those_of_the_definition("bilateral", inputs)
    assert computed("bilateral", inputs)[0].isnan()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_left_without_a_class_of_the_batch_makes_the_loss_nan(kind: str) -> None:
    inputs = single(19, 3)
    inputs.target.fill_(1)
    # Row 2 of the student has class 0 only, which the teacher lacks.
    inputs.teacher[:, 0] = -torch.inf
    inputs.student[2, 1:] = -torch.inf
    assert computed(kind, inputs)[0].isnan()


def test_kd_is_infinite_where_the_student_excludes_a_class_that_the_teacher_expects() -> None:
    inputs = single(19, 5)
    inputs.target.fill_(1)
    inputs.student[1, 2] = -torch.inf
    terms = assert_terms_are_those_of_the_definition("bickd", inputs)
    assert terms[1] == torch.inf
    assert all(terms[index].isfinite() for index in (0, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_may_exclude_classes_in_some_rows(kind: str) -> None:
    inputs = single(40, 30)
    inputs.teacher[torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) < 0.4] = -torch.inf
    assert_is_the_definition(kind, inputs)
    assert_terms_are_those_of_the_definition(kind, inputs)


def test_a_student_may_exclude_classes_in_some_rows_of_the_bilateral_loss() -> None:
    inputs = single(40, 30)
    for logits, seed in zip(inputs[:2], (1, 2), strict=True):
        logits[torch.rand(40, 30, generator=torch.Generator().manual_seed(seed)) < 0.4] = -torch.inf
    assert_is_the_definition("bilateral", inputs)


def test_a_class_of_teacher_probability_0_adds_nothing_to_kd() -> None:
    inputs = single(19, 5)
    inputs.target.fill_(0)
    # The teacher's softmax is 0 in float64 too; if it were 0 in float32 only, the true divergence would be infinite.
    inputs.teacher[:, 3] = -5000.0
    inputs.student[4, 3] = -torch.inf
    terms = assert_terms_are_those_of_the_definition("bickd", inputs)
    assert terms[1].isfinite()
    # Without the bilateral loss: class vectors with logarithms around -2500 lose their direction in float32.
    assert_is_the_definition("bickd", inputs, bilateral_weight=0.0)


def test_logits_of_minus_infinity_in_any_tile_match_the_definition() -> None:
    inputs = single(*TILED)
    generator = torch.Generator().manual_seed(5)
    both = torch.rand(TILED, generator=generator) < 0.3
    inputs.student[both], inputs.teacher[both] = -torch.inf, -torch.inf
    inputs.teacher[torch.rand(TILED, generator=generator) < 0.2] = -torch.inf
    # The first or the last tiles of a row are all -inf, so that a running maximum starts late or gets nothing new.
    inputs.student[3, :130], inputs.teacher[3, :130] = -torch.inf, -torch.inf
    inputs.student[5, 10:], inputs.teacher[5, 10:] = -torch.inf, -torch.inf
    inputs.target[:] = torch.where(inputs.student.isfinite(), torch.arange(150), 0).argmax(1)
    assert_is_the_definition("bickd", inputs)


def test_rows_of_many_blocks_may_begin_with_minus_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "tile_of_logits", few_logits)
    inputs = single(20, 150, scale=1.0)
    inputs.target.fill_(149)
    inputs.student[3, :130], inputs.teacher[3, :130] = -torch.inf, -torch.inf
    inputs.teacher[4, :70] = -torch.inf
    inputs.student[5, 10:149], inputs.teacher[5, 10:] = -torch.inf, -torch.inf
    # Maxima that grow and fall from block to block.
    inputs.student[7] += torch.arange(150)
    inputs.teacher[7] -= torch.arange(150)
    assert_is_the_definition("bickd", inputs)
    assert_is_the_definition("bickd", with_absences(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("spread", SATURATED)
@pytest.mark.parametrize("kind", KINDS)
def test_saturated_logits_give_the_finite_result_of_float64(kind: str, dtype: torch.dtype, spread: str) -> None:
    inputs = saturated(19, 7, dtype, spread)
    loss, gradient = computed(kind, inputs)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert_close_to((loss, gradient), evaluate(kind, as_double(inputs), backend="reference"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_tiny_mass_keeps_its_direction(kind: str) -> None:
    inputs = single(23, 7)
    # Probabilities of exp(-128 / t), whose squares are 0 in float32; those of the teacher's class are 0 themselves.
    inputs.student[:, 3] -= 128.0
    inputs.teacher[:, 5] -= 512.0
    inputs.target.fill_(0)
    assert_is_the_definition(kind, inputs)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.float16),
    ],
)
def test_student_and_teacher_may_have_different_dtypes(student: torch.dtype, teacher: torch.dtype) -> None:
    inputs = single(30, 21)
    inputs = inputs._replace(student=inputs.student.to(student), teacher=inputs.teacher.to(teacher))
    grade = FLOAT32_GRADE if student == torch.float32 else SINGLE_FLOAT16
    gradient = assert_is_the_definition("bickd", inputs, grade)
    assert gradient.dtype == student


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int8])
def test_targets_may_have_any_integer_dtype(dtype: torch.dtype) -> None:
    inputs = single(19, 5)
    inputs.target[3] = 100
    expected = computed("bickd", inputs, ignore_index=100)
    actual = computed("bickd", inputs._replace(target=inputs.target.to(dtype)), ignore_index=100)
    # Equal bits: targets are widened to int64 before a kernel sees them.
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


def test_a_narrow_target_does_not_wrap_to_ignore_index() -> None:
    inputs = single(19, 160)._replace(target=torch.full((19,), 156, dtype=torch.uint8))
    assert_is_the_definition("bickd", inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    inputs = single(19, 5)
    with simulator():
        expected = evaluate("bickd", inputs)
        with torch.autocast("cuda", dtype=dtype):
            assert torch.is_autocast_enabled("cuda")
            loss, gradient = evaluate("bickd", inputs)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1])


def strided(name: str, logits: Tensor) -> Tensor:
    """The same numbers in another layout."""
    samples, classes = logits.shape
    if name == "transposed":
        return logits.t().contiguous().t()
    if name == "rows of a wider tensor":
        wide = torch.full((samples, classes + 11), torch.nan, dtype=logits.dtype)
        wide[:, 3 : 3 + classes] = logits
        return wide[:, 3 : 3 + classes]
    if name == "every other row":
        rows = torch.full((2 * samples, classes), torch.nan, dtype=logits.dtype)
        rows[1::2] = logits
        return rows[1::2]
    if name == "every third class":
        wide = torch.full((samples, 3 * classes), torch.nan, dtype=logits.dtype)
        wide[:, 2::3] = logits
        return wide[:, 2::3]
    assert name == "an odd offset"
    flat = torch.full((samples * classes + 1,), torch.nan, dtype=logits.dtype)
    flat[1:] = logits.flatten()
    return flat[1:].view(samples, classes)


LAYOUTS = ["transposed", "rows of a wider tensor", "every other row", "every third class", "an odd offset"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "classes"), [(torch.float32, 21), (torch.bfloat16, 24)])
def test_logits_of_any_strides_match_the_definition(layout: str, dtype: torch.dtype, classes: int) -> None:
    inputs = make_inputs(19, classes, dtype=dtype)
    student, teacher = (strided(layout, logits) for logits in inputs[:2])
    grade = FLOAT32_GRADE if dtype == torch.float32 else SINGLE_FLOAT16
    for moved in (Inputs(student, teacher, inputs.target), inputs._replace(teacher=teacher)):
        # Other strides may compile to another kernel, which sums in another order, so the error is bounded.
        assert_is_the_definition("bickd", moved, grade)


def test_the_teacher_may_be_one_expanded_row() -> None:
    inputs = single(19, 24)
    assert_is_the_definition("bickd", inputs._replace(teacher=inputs.teacher[:1].expand(19, 24)))


def test_logits_may_be_one_expanded_number() -> None:
    inputs = Inputs(torch.tensor(0.5).expand(19, 24), torch.tensor(-1.5).expand(19, 24), torch.arange(19))
    assert_is_the_definition("bickd", inputs)


@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_targets_may_be_strided(kind: str) -> None:
    inputs = single(19, 24)
    other = inputs.target.roll(1)
    strided = torch.stack((other, inputs.target), dim=1)[:, 1]
    assert torch.equal(strided, inputs.target)
    assert_is_the_definition(kind, inputs._replace(target=strided))


@pytest.mark.parametrize("shape", [(20,), (4, 5)])
def test_targets_may_be_one_expanded_number(shape: tuple[int, ...]) -> None:
    inputs = single(20, 24)
    inputs.target.fill_(3)
    shaped = Inputs(*(tensor.reshape(*shape, *tensor.shape[1:]) for tensor in inputs))
    assert_is_the_definition("bickd", shaped._replace(target=torch.tensor(3).expand(shape)))


@pytest.mark.parametrize("shape", [(1, 24), (24, 1)])
def test_the_stride_of_a_dimension_of_size_1_does_not_matter(shape: tuple[int, int]) -> None:
    inputs = single(*shape)
    odd = [torch.as_strided(logits, shape, (1, 1) if shape[1] > 1 else (1, 7)) for logits in inputs[:2]]
    for moved, logits in zip(odd, inputs[:2], strict=True):
        assert torch.equal(moved, logits)
    assert_is_the_definition("bickd", Inputs(*odd, inputs.target))


@pytest.mark.parametrize("leading", [(2, 10), (2, 5, 2), (20, 1)])
def test_leading_dimensions_are_flattened_into_samples(leading: tuple[int, ...]) -> None:
    inputs = single(20, 5)
    loss, gradient = computed("bickd", inputs)
    shaped = Inputs(*(tensor.reshape(*leading, *tensor.shape[1:]) for tensor in inputs))
    shaped_loss, shaped_gradient = computed("bickd", shaped)
    # Equal bits: contiguous logits are flattened as a view, which has the strides of the other call's logits.
    assert torch.equal(shaped_loss, loss)
    assert torch.equal(shaped_gradient, gradient.reshape(*leading, 5))


def test_pixels_with_the_classes_moved_last_are_flattened() -> None:
    inputs = single(24, 3)
    images = Inputs(
        *(logits.reshape(2, 3, 4, 3).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for logits in inputs[:2]),
        inputs.target.reshape(2, 3, 4),
    )
    assert not images.student.is_contiguous()
    flat = evaluate("bickd", as_double(inputs), backend="reference")
    loss, gradient = computed("bickd", images)
    assert_close_to((loss, gradient.reshape(24, 3)), flat)


@pytest.mark.parametrize("upstream", [0.0, 1.0, -2.5, 2.0**16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_upstream_gradient_is_applied_before_the_gradient_is_rounded(dtype: torch.dtype, upstream: float) -> None:
    inputs = make_inputs(19, 21, dtype=dtype)
    student = inputs.student.requires_grad_()
    with simulator():
        loss = call("bickd", inputs) * upstream
        (gradient,) = torch.autograd.grad(loss, student)
    _, expected = evaluate("bickd", as_double(inputs), backend="reference")
    grade = FLOAT32_GRADE if dtype == torch.float32 else SINGLE_FLOAT16
    bound = (grade + ROUNDING[dtype]) * float(expected.abs().max()) * abs(upstream) + SMALLEST[dtype]
    assert gradient.dtype == dtype
    assert float((gradient.double() - upstream * expected).abs().max()) <= bound
    if upstream == 0.0:
        assert torch.count_nonzero(gradient) == 0


def test_a_gradient_scaler_saves_a_float16_gradient_from_underflow() -> None:
    inputs = make_inputs(64, 21, dtype=torch.float16)
    inputs.student[:, 5] -= 14.0
    inputs.teacher[:, 5] -= 14.0
    inputs.target[inputs.target == 5] = 0
    student = inputs.student.requires_grad_()
    with simulator():
        (plain,) = torch.autograd.grad(call("bickd", inputs, bilateral_weight=0.0, kd_weight=0.0), student)
        (scaled,) = torch.autograd.grad(2.0**16 * call("bickd", inputs, bilateral_weight=0.0, kd_weight=0.0), student)
    _, expected = evaluate("bickd", as_double(inputs), bilateral_weight=0.0, kd_weight=0.0, backend="reference")
    assert torch.count_nonzero(plain[:, 5]) == 0
    # One rounding to float16, and a few of an exponential in float32.
    torch.testing.assert_close(scaled[:, 5].double(), 2.0**16 * expected[:, 5], rtol=2**-11 + 2**-19, atol=2**-25)
    assert (scaled[:, 5] > 0).any()


def test_a_non_contiguous_upstream_gradient_is_read_correctly() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    upstreams = torch.tensor([[7.0, 2.0], [5.0, 3.0]])[:, 1].expand(2)
    with simulator():
        (whole,) = torch.autograd.grad(call("bickd", inputs), student)
        (doubled,) = torch.autograd.grad(call("bickd", inputs), student, upstreams[0])
        (expanded,) = torch.autograd.grad(call("bickd", inputs).expand(3, 2), student, torch.ones(1, 1).expand(3, 2))
    torch.testing.assert_close(doubled, 2 * whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(expanded, 6 * whole, rtol=1e-6, atol=0)


def test_an_upstream_gradient_in_float64_is_accepted() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    with simulator():
        (whole,) = torch.autograd.grad(call("bickd", inputs), student)
        (tripled,) = torch.autograd.grad(call("bickd", inputs).double() * 3.0, student)
    torch.testing.assert_close(tripled, 3 * whole, rtol=1e-6, atol=0)


def test_the_gradients_of_several_uses_of_the_logits_add_up() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    with simulator():
        (alone,) = torch.autograd.grad(call("bickd", inputs), student)
        (call("bickd", inputs) + 0.5 * student.sum()).backward()
    torch.testing.assert_close(student.grad, alone + 0.5, rtol=1e-6, atol=0)


def test_backward_twice_over_a_kept_graph_gives_the_same_bits() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    with simulator():
        loss = call("bickd", inputs)
        first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_no_gradient_flows_to_the_teacher() -> None:
    inputs = single(19, 5)
    expected = computed("bickd", inputs)[1]
    student, teacher = inputs.student.requires_grad_(), inputs.teacher.requires_grad_()
    with simulator():
        call("bickd", inputs).backward()
    assert teacher.grad is None
    assert torch.equal(student.grad, expected)


def test_terms_have_no_gradient() -> None:
    inputs = single(19, 5)
    inputs.student.requires_grad_()
    with simulator():
        loss, terms = call("bickd", inputs, return_terms=True)
    assert loss.requires_grad
    assert not any(term.requires_grad for term in terms)


def test_a_second_derivative_is_refused() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    with simulator():
        loss = call("bickd", inputs)
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.autograd.grad(loss, student, create_graph=True)


def test_logits_that_change_before_backward_give_the_old_gradient_or_an_error() -> None:
    inputs = single(19, 5)
    expected = computed("bickd", inputs)[1]
    student = inputs.student.clone().requires_grad_()
    for change in ("student", "teacher"):
        teacher = inputs.teacher.clone()
        logits = student * 1.0
        with simulator():
            loss = call("bickd", Inputs(logits, teacher, inputs.target))
            (logits.detach() if change == "student" else teacher).mul_(2.0)
            # The gradient of the new logits would be silently wrong.
            with contextlib.suppress(RuntimeError):
                (gradient,) = torch.autograd.grad(loss, student)
                assert torch.equal(gradient, expected)


def test_nothing_is_kept_for_backward_without_a_gradient() -> None:
    inputs = single(19, 5)
    student = inputs.student.requires_grad_()
    kept: list[Tensor] = []
    with (
        simulator(),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept),
    ):
        with torch.no_grad():
            without = call("bickd", inputs)
        assert kept == []
        detached = call("bickd", inputs._replace(student=student.detach()))
        assert kept == []
        loss = call("bickd", inputs)
        assert kept != []
    assert not without.requires_grad
    assert torch.equal(detached, without)
    # Without a gradient other kernels run, which may sum in another order.
    expected = call("bickd", as_double(inputs), backend="reference").detach()
    for value in (without, loss.detach()):
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("absences", [False, True])
def test_the_inputs_are_not_written_to(absences: bool) -> None:
    inputs = single(19, 5)
    if absences:
        inputs = with_absences(inputs)
    before = [tensor.clone() for tensor in inputs]
    computed("bickd", inputs)
    for tensor, old in zip(inputs, before, strict=True):
        assert torch.equal(tensor.view(torch.uint8), old.view(torch.uint8))


@pytest.mark.parametrize("shape", [(19, 5), TILED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_calls_give_the_same_bits(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    inputs = with_absences(make_inputs(*shape, dtype=dtype))
    (loss, gradient), (again, gradient_again) = (computed("bickd", inputs) for _ in range(2))
    assert torch.equal(loss, again)
    assert torch.equal(gradient, gradient_again)


WEIGHTS = {"ce_weight": 0.3, "kd_weight": 0.7, "class_wise_weight": 1.5, "sample_wise_weight": 0.6}


def without(left_out: tuple[str, ...]) -> dict[str, float]:
    return {name: 0.0 if name in left_out else weight for name, weight in WEIGHTS.items()}


COMBINATIONS = [left_out for count in range(4) for left_out in itertools.combinations(WEIGHTS, count)]


@pytest.mark.parametrize("left_out", COMBINATIONS, ids=lambda names: "without " + ", ".join(names) if names else "all")
def test_terms_of_weight_zero_take_no_part(left_out: tuple[str, ...]) -> None:
    assert_is_the_definition("bickd", single(19, 5), bilateral_weight=1.0, **without(left_out))


@pytest.mark.parametrize(
    "left_out",
    [names for names in COMBINATIONS if len(names) in (1, 3)],
    ids=lambda names: "without " + ", ".join(names),
)
def test_terms_of_weight_zero_take_no_part_where_something_is_absent(left_out: tuple[str, ...]) -> None:
    assert_is_the_definition("bickd", with_absences(single(19, 7)), bilateral_weight=1.0, **without(left_out))


@pytest.mark.parametrize("weight", list(WEIGHTS))
def test_returning_terms_does_not_change_the_loss(weight: str) -> None:
    inputs = single(19, 5)
    weights = without((weight,))
    student = inputs.student.clone().requires_grad_()
    with simulator():
        loss, terms = call("bickd", inputs._replace(student=student), return_terms=True, **weights)
        (gradient,) = torch.autograd.grad(loss, student)
    # test_terms_of_weight_zero_take_no_part has the same bounds without the terms.
    assert_close_to((loss.detach(), gradient), evaluate("bickd", as_double(inputs), backend="reference", **weights))
    for actual, true in zip(terms, expected_terms("bickd", inputs)[1], strict=True):
        torch.testing.assert_close(actual.double(), true, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("return_terms", [False, True])
def test_an_infinite_term_of_weight_zero_does_not_reach_the_loss(return_terms: bool) -> None:
    inputs = single(19, 5)
    inputs.target.fill_(1)
    inputs.student[3, 2] = -torch.inf
    student = inputs.student.clone().requires_grad_()
    with simulator():
        result = call("bickd", inputs._replace(student=student), kd_weight=0.0, return_terms=return_terms)
        loss, terms = result if return_terms else (result, None)
        (gradient,) = torch.autograd.grad(loss, student)
    assert terms is None or terms.kd == torch.inf
    assert_close_to((loss.detach(), gradient), evaluate("bickd", as_double(inputs), kd_weight=0.0, backend="reference"))


@pytest.mark.parametrize("return_terms", [False, True])
def test_nan_in_terms_of_weight_zero_does_not_reach_the_loss(return_terms: bool) -> None:
    inputs = single(19, 5)
    inputs.teacher[3, 2] = torch.nan
    options = {"kd_weight": 0.0, "bilateral_weight": 0.0}
    student = inputs.student.clone().requires_grad_()
    with simulator():
        result = call("bickd", inputs._replace(student=student), return_terms=return_terms, **options)
        loss, terms = result if return_terms else (result, None)
        (gradient,) = torch.autograd.grad(loss, student)
    assert terms is None or terms.kd.isnan()
    expected = evaluate("bickd", as_double(inputs), backend="reference", **options)
    if return_terms:
        # The gradient adds the parts of all terms, and 0 * NaN is NaN.
        assert float(loss.detach()) == pytest.approx(float(expected[0]), rel=1e-6)
    else:
        assert_close_to((loss.detach(), gradient), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_terms_match_the_definition(kind: str) -> None:
    assert_terms_are_those_of_the_definition(kind, single(23, 31))


def test_with_all_weights_zero_nothing_is_launched() -> None:
    with simulator() as session:
        loss, gradient = evaluate("bilateral", single(19, 5), class_wise_weight=0.0, sample_wise_weight=0.0)
        assert session.launches == 0
    assert loss == 0
    assert torch.count_nonzero(gradient) == 0


@pytest.mark.parametrize("wrong", [-1, 5, 10**6, -(10**6), 2**32 + 1])
def test_a_target_that_names_no_class_gives_nan(wrong: int) -> None:
    # On a GPU the values of a target are not checked before the launch, which would synchronize.
    inputs = single(19, 5)
    inputs.target[3] = wrong
    loss, _ = computed("bickd", inputs)
    _, terms = computed_terms("bickd", inputs)
    assert loss.isnan()
    assert terms[0].isnan()


def test_auto_selects_the_kernels_on_a_gpu_except_for_float64() -> None:
    inputs = single(19, 5)
    with simulator() as session:
        automatic, named = evaluate("bickd", inputs), evaluate("bickd", inputs, backend="triton")
        assert session.launches == 12
        double = evaluate("bickd", as_double(inputs))
        assert session.launches == 12
        with pytest.raises(ValueError, match="float64"):
            evaluate("bickd", as_double(inputs), backend="triton")
    assert torch.equal(automatic[0], named[0])
    assert torch.equal(automatic[1], named[1])
    assert double[0].dtype == torch.float64
