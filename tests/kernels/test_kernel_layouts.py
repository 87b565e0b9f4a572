"""Every dtype, stride and leading dimension of logits and targets."""

import pytest
import torch
from cases import LABELLED_KINDS, Inputs, as_double, evaluate, make_inputs
from checks import FLOAT32_GRADE, SINGLE_FLOAT16, single
from definition import assert_close_to, assert_is_the_definition, computed
from simulate import simulator
from torch import Tensor


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
