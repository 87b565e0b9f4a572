"""The table of edge cases in docs/loss.md, for each backend that runs on a CPU."""

import math

import oracle
import pytest
import torch
from cases import (
    KINDS,
    LABELLED_KINDS,
    POISONS,
    SATURATED,
    Inputs,
    as_double,
    call,
    evaluate,
    keep_rows,
    make_inputs,
    poisoned,
    relative_error,
    saturated,
    term_rounding,
)

from bickd_kernels import bickd_loss, bilateral_loss

GARBAGE = (torch.nan, torch.inf, -torch.inf, 1e300)


def expected_loss(kind: str, inputs: Inputs) -> float:
    target = None if kind == "bilateral_unlabelled" else inputs.target.numpy()
    terms = oracle.terms(inputs.student.numpy(), inputs.teacher.numpy(), target)
    return oracle.total(terms) if kind == "bickd" else oracle.bilateral(terms)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_an_ignored_row_is_as_if_it_were_not_in_the_batch(kind: str, garbage: float, backend: str) -> None:
    inputs = make_inputs(9, 5)
    inputs.target[[0, 4, 8]] = -100
    inputs.student[0], inputs.teacher[4], inputs.student[8] = garbage, garbage, garbage
    keep = inputs.target != -100
    loss, gradient = evaluate(kind, inputs, backend=backend)
    alone, alone_gradient = evaluate(kind, keep_rows(inputs, keep), backend=backend)
    assert relative_error(loss, alone) <= 1e-12
    assert relative_error(gradient[keep], alone_gradient) <= 1e-12
    assert torch.count_nonzero(gradient[~keep]) == 0


@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_an_ignored_row_is_left_out_of_every_term(kind: str, backend: str) -> None:
    inputs = make_inputs(7, 4)
    inputs.target[3] = -100
    _, terms = call(kind, inputs, return_terms=True, backend=backend)
    _, alone = call(kind, keep_rows(inputs, inputs.target != -100), return_terms=True, backend=backend)
    torch.testing.assert_close(tuple(terms), tuple(alone), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("ignore_index", [0, 2, 255, -1])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_ignore_index_may_be_any_integer_even_that_of_a_class(kind: str, ignore_index: int, backend: str) -> None:
    inputs = make_inputs(9, 4)
    inputs.target[2] = ignore_index
    keep = inputs.target != ignore_index
    loss, gradient = evaluate(kind, inputs, ignore_index=ignore_index, backend=backend)
    alone, alone_gradient = evaluate(kind, keep_rows(inputs, keep), backend=backend)
    assert relative_error(loss, alone) <= 1e-12
    assert relative_error(gradient[keep], alone_gradient) <= 1e-12
    assert torch.count_nonzero(gradient[~keep]) == 0


@pytest.mark.parametrize("garbage", [0.0, *GARBAGE])
@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_a_batch_of_ignored_rows_gives_zero(kind: str, garbage: float, backend: str) -> None:
    inputs = make_inputs(4, 5)
    inputs.target.fill_(-100)
    inputs.student[1:], inputs.teacher[:2] = garbage, garbage
    loss, gradient = evaluate(kind, inputs, backend=backend)
    _, terms = call(kind, inputs, return_terms=True, backend=backend)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(inputs.student))
    assert all(term == 0 for term in terms)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_samples_gives_zero(kind: str, shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    inputs = Inputs(
        torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype), torch.zeros(shape[:-1], dtype=torch.int64)
    )
    loss, gradient = evaluate(kind, inputs, backend=backend)
    _, terms = call(kind, inputs, return_terms=True, backend=backend)
    assert loss == 0
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert (gradient.shape, gradient.dtype) == (shape, dtype)
    assert [float(term) for term in terms] == [0.0] * (4 if kind == "bickd" else 2)


@pytest.mark.parametrize("classes", [1, 2, 31])
def test_one_sample_has_a_sample_wise_term_of_0_and_a_class_wise_term_of_log_c(classes: int, backend: str) -> None:
    inputs = make_inputs(1, classes)
    loss, gradient = evaluate("bilateral", inputs, backend=backend)
    _, terms = call("bilateral", inputs, return_terms=True, backend=backend)
    assert abs(float(terms.sample_wise)) <= term_rounding()
    assert float(terms.class_wise) == pytest.approx(math.log(classes), abs=term_rounding())
    assert float(loss) == pytest.approx(math.log(classes), abs=2 * term_rounding())
    assert gradient.abs().max() <= 2 * term_rounding()


def test_one_valid_sample_gives_the_result_of_one_sample(backend: str) -> None:
    inputs = make_inputs(5, 6)
    inputs.target[1:] = -100
    loss, gradient = evaluate("bilateral", inputs, backend=backend)
    assert float(loss) == pytest.approx(math.log(6), abs=2 * term_rounding())
    assert gradient.abs().max() <= 2 * term_rounding()


@pytest.mark.parametrize("sides", [("student",), ("teacher",), ("student", "teacher")])
@pytest.mark.parametrize("kind", ["bilateral", "bilateral_unlabelled"])
def test_a_class_absent_from_every_row_does_not_belong_to_the_batch(kind: str, sides: tuple[str, ...], backend: str) -> None:
    # The sample side only compares labels, so they need no renumbering when classes are dropped.
    inputs = make_inputs(6, 5)._replace(target=torch.tensor([0, 2, 1, 2, 0, 2]))
    absent, keep = [1, 4], [0, 2, 3]
    for side in sides:
        getattr(inputs, side)[:, absent] = -torch.inf
    loss, gradient = evaluate(kind, inputs, backend=backend)
    fewer = Inputs(inputs.student[:, keep], inputs.teacher[:, keep], inputs.target)
    alone, alone_gradient = evaluate(kind, fewer, backend=backend)
    assert float(loss) == pytest.approx(expected_loss(kind, inputs), rel=1e-12)
    assert relative_error(loss, alone) <= 1e-12
    assert relative_error(gradient[:, keep], alone_gradient) <= 1e-12
    assert torch.count_nonzero(gradient[:, absent]) == 0


@pytest.mark.parametrize("sides", [("student",), ("teacher",), ("student", "teacher")])
def test_an_absent_class_has_a_gradient_from_the_cross_entropy_alone(sides: tuple[str, ...], backend: str) -> None:
    inputs = make_inputs(6, 5)
    inputs.target.fill_(2)
    for side in sides:
        getattr(inputs, side)[:, 3] = -torch.inf
    loss, gradient = evaluate("bickd", inputs, backend=backend)
    assert float(loss) == pytest.approx(expected_loss("bickd", inputs), rel=1e-12)
    cross_entropy_gradient = (torch.softmax(inputs.student, 1)[:, 3]) * 0.1 / 6
    torch.testing.assert_close(gradient[:, 3], cross_entropy_gradient, rtol=1e-12, atol=0)
    _, without = evaluate("bickd", inputs, ce_weight=0.0, backend=backend)
    assert torch.count_nonzero(without[:, 3]) == 0


@pytest.mark.parametrize("kind", LABELLED_KINDS)
def test_only_valid_rows_decide_whether_a_class_is_absent(kind: str, backend: str) -> None:
    inputs = make_inputs(5, 4)
    inputs.target.fill_(1)
    inputs.target[2] = -100
    inputs.student[:, 0] = -torch.inf
    inputs.student[2, 0] = 3.0
    loss, gradient = evaluate(kind, inputs, backend=backend)
    assert float(loss) == pytest.approx(expected_loss(kind, inputs), rel=1e-12)
    assert torch.count_nonzero(gradient[:, 0]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_absent_from_some_rows_belongs_to_the_batch(kind: str, backend: str) -> None:
    inputs = make_inputs(5, 4)
    inputs.target.fill_(1)
    # The KL divergence is infinite where only the student has probability 0, so the teacher lacks the class there too.
    inputs.student[[0, 3], 2] = -torch.inf
    inputs.teacher[[0, 1, 3], 2] = -torch.inf
    loss, gradient = evaluate(kind, inputs, backend=backend)
    assert float(loss) == pytest.approx(expected_loss(kind, inputs), rel=1e-12)
    assert gradient.isfinite().all()
    assert torch.count_nonzero(gradient[[1, 2, 4], 2]) == 3


def test_kd_is_infinite_where_the_student_excludes_a_class_that_the_teacher_expects(backend: str) -> None:
    inputs = make_inputs(4, 3)
    inputs.student[1, 2] = -torch.inf
    _, terms = bickd_loss(inputs.student, inputs.teacher, torch.tensor([0, 1, 0, 1]), return_terms=True, backend=backend)
    assert terms.kd == torch.inf
    assert terms.class_wise.isfinite()
    assert terms.sample_wise.isfinite()


def test_targets_may_name_an_absent_class(backend: str) -> None:
    inputs = make_inputs(6, 4)._replace(target=torch.tensor([3, 0, 3, 1, 0, 3]))
    inputs.teacher[:, 3] = -torch.inf
    loss, gradient = evaluate("bilateral", inputs, backend=backend)
    assert float(loss) == pytest.approx(expected_loss("bilateral", inputs), rel=1e-12)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_class_in_common_the_loss_is_nan(kind: str, backend: str) -> None:
    inputs = make_inputs(5, 4)
    inputs.student[:, :2], inputs.teacher[:, 2:] = -torch.inf, -torch.inf
    assert call(kind, inputs, backend=backend).isnan()


def test_without_a_class_in_common_the_cross_entropy_is_still_defined(backend: str) -> None:
    inputs = make_inputs(5, 4)._replace(target=torch.tensor([2, 3, 2, 3, 3]))
    inputs.student[:, :2], inputs.teacher[:, 2:] = -torch.inf, -torch.inf
    _, terms = bickd_loss(*inputs, return_terms=True, backend=backend)
    expected = oracle.terms(inputs.student.numpy(), inputs.teacher.numpy(), inputs.target.numpy())
    assert float(terms.ce) == pytest.approx(expected.ce, rel=1e-12)
    assert all(term.isnan() for term in terms[1:])


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_an_invalid_row_makes_the_loss_nan(
    kind: str, dtype: torch.dtype, samples: int, side: str, poison: str, backend: str
) -> None:
    inputs = poisoned(make_inputs(samples, 4, dtype=dtype), side, samples - 1, poison)
    assert call(kind, inputs, backend=backend).isnan()


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("term", ["class_wise_weight", "sample_wise_weight"])
def test_an_invalid_row_makes_each_side_alone_nan(term: str, side: str, poison: str, backend: str) -> None:
    inputs = poisoned(make_inputs(5, 4), side, 3, poison)
    weights = {"class_wise_weight": 0.0, "sample_wise_weight": 0.0, term: 1.0}
    assert bilateral_loss(*inputs, **weights, backend=backend).isnan()


def test_a_row_left_without_a_class_of_the_batch_makes_the_loss_nan(backend: str) -> None:
    inputs = make_inputs(4, 3)
    # Row 2 of the student has class 0 only, which the teacher lacks.
    inputs.teacher[:, 0] = -torch.inf
    inputs.student[2, 1:] = -torch.inf
    assert bilateral_loss(*inputs, backend=backend).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("spread", SATURATED)
@pytest.mark.parametrize("kind", KINDS)
def test_saturated_logits_give_the_finite_result_of_float64(
    kind: str, dtype: torch.dtype, spread: str, backend: str
) -> None:
    inputs = saturated(11, 7, dtype, spread)
    loss, gradient = evaluate(kind, inputs, backend=backend)
    double = as_double(inputs)
    truth, true_gradient = evaluate(kind, double, backend="reference")
    assert float(truth) == pytest.approx(expected_loss(kind, double), rel=1e-12)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    # The loss is always float32; a float16 gradient is rounded once more. Where every softmax is one-hot, the true gradient
    # is below the smallest number of the dtype.
    assert relative_error(loss, truth) <= 1e-6
    rounding, smallest = (2**-11, 2**-24) if dtype == torch.float16 else (0.0, 2**-126)
    assert (gradient - true_gradient).abs().max() <= (1e-6 + rounding) * true_gradient.abs().max() + smallest


@pytest.mark.parametrize("left_out", ["nothing", "a row", "a class"])
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_class_beyond_the_range_of_the_dtype_makes_the_loss_not_finite(
    kind: str, side: str, left_out: str, backend: str
) -> None:
    # -3e38 / 0.5 is -inf in float32, but the class belongs to the batch: its direction is lost.
    inputs = make_inputs(5, 4, dtype=torch.float32)
    inputs.target.fill_(1)
    getattr(inputs, side)[:, 0] = -3e38
    if left_out == "a row":
        inputs.target[2] = -100
    elif left_out == "a class":
        inputs.teacher[:, 3] = -torch.inf
    assert not call(kind, inputs, temperature=0.5, backend=backend).isfinite()
    assert call(kind, inputs, temperature=1.0, return_terms=True, backend=backend)[1].class_wise.isfinite()


@pytest.mark.parametrize("leading", [(2, 6), (2, 3, 2), (12, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_leading_dimensions_are_flattened_into_samples(kind: str, leading: tuple[int, ...], backend: str) -> None:
    inputs = make_inputs(12, 5)
    shaped = Inputs(*(tensor.reshape(*leading, *tensor.shape[1:]) for tensor in inputs))
    loss, gradient = evaluate(kind, inputs, backend=backend)
    shaped_loss, shaped_gradient = evaluate(kind, shaped, backend=backend)
    # Equal bits: contiguous logits are flattened as a view, which has the strides of the other call's logits.
    assert torch.equal(shaped_loss, loss)
    assert torch.equal(shaped_gradient, gradient.reshape(*leading, 5))


def test_pixels_with_the_classes_moved_last_are_flattened(backend: str) -> None:
    inputs = make_inputs(24, 3)
    images = Inputs(
        *(logits.reshape(2, 3, 4, 3).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for logits in inputs[:2]),
        inputs.target.reshape(2, 3, 4),
    )
    assert not images.student.is_contiguous()
    loss, gradient = evaluate("bickd", inputs, backend=backend)
    image_loss, image_gradient = evaluate("bickd", images, backend=backend)
    assert relative_error(image_loss, loss) <= 1e-12
    assert relative_error(image_gradient.reshape(24, 3), gradient) <= 1e-12
