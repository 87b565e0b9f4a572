"""The edge cases of docs/loss.md on the kernels, on the small and on the general path, against the float64 definition."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Inputs, as_double, call, evaluate, make_inputs
from checks import assert_right, step
from simulate import simulator

from bickd_kernels import bickd_loss
from bickd_kernels.backends.triton import launch

INFINITY, NAN = torch.inf, torch.nan


@pytest.fixture(params=["small", "general"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "general":
        monkeypatch.setattr(launch, "SMALL", 0)
    return request.param


def inputs_with(change: Callable[[Inputs], None] | None = None, **options: Any) -> Inputs:
    """13 samples and 70 classes, of which no sample has class 5, changed."""
    inputs = make_inputs(13, 70, dtype=torch.float32, **options)
    inputs.target[inputs.target == 5] = 6
    if change is not None:
        change(inputs)
    return inputs


def set_logits(side: str, where: Any, value: float) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        getattr(inputs, side)[where] = value

    return change


def both(*changes: Callable[[Inputs], None]) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        for one in changes:
            one(inputs)

    return change


def ignored(row: int) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs.target[row] = -100

    return change


EVERY = slice(None)

FINITE = {
    "an ignored row of NaN and infinity": both(
        ignored(3), set_logits("student", 3, NAN), set_logits("teacher", 3, INFINITY)
    ),
    "a class absent of the student": set_logits("student", (EVERY, 5), -INFINITY),
    "a class absent of the teacher": set_logits("teacher", (EVERY, 5), -INFINITY),
    "a class absent of both": both(
        set_logits("student", (EVERY, 5), -INFINITY), set_logits("teacher", (EVERY, 5), -INFINITY)
    ),
    "an absent class that the teacher is sure of": both(
        set_logits("student", (EVERY, 5), -INFINITY), set_logits("teacher", (EVERY, 5), 60.0)
    ),
    "a class absent but for an ignored row": both(
        set_logits("teacher", (EVERY, 5), -INFINITY), set_logits("teacher", (2, 5), 1.0), ignored(2)
    ),
    "classes absent of one side each": both(
        set_logits("student", (EVERY, slice(40, 60, 2)), -INFINITY),
        set_logits("teacher", (EVERY, slice(41, 70, 3)), -INFINITY),
        lambda inputs: inputs.target.fill_(1),
    ),
    "-inf of both sides in one sample": both(
        set_logits("student", (2, 5), -INFINITY), set_logits("teacher", (2, 5), -INFINITY)
    ),
    "-inf of the teacher in one sample": set_logits("teacher", (2, 5), -INFINITY),
    "-inf of the student where the teacher has no mass": both(
        set_logits("student", (2, 5), -INFINITY), set_logits("teacher", (2, 5), -1e5)
    ),
    "classes of tiny mass": both(
        lambda inputs: inputs.student[:, 3].sub_(128.0),
        lambda inputs: inputs.teacher[:, 5].sub_(512.0),
        lambda inputs: inputs.target.fill_(0),
    ),
    "nothing but negative logits": both(
        lambda inputs: inputs.student.abs_().neg_().sub_(50.0), lambda inputs: inputs.teacher.abs_().neg_().sub_(50.0)
    ),
    "a student that is its teacher": lambda inputs: inputs.student.copy_(inputs.teacher),
    "one label": lambda inputs: inputs.target.fill_(3),
}


@pytest.mark.parametrize("case", list(FINITE))
@pytest.mark.parametrize("kind", ["bilateral", "bickd"])
def test_what_has_a_result_has_the_right_one(kind: str, case: str) -> None:
    inputs = inputs_with(FINITE[case])
    with simulator():
        actual = step(kind, inputs)
    assert_right(actual, kind, inputs)
    assert (actual.gradient[inputs.target == -100] == 0).all()


def test_logits_as_large_as_they_get() -> None:
    for dtype, scale in ((torch.float32, 1e4 / 4), (torch.float16, 6e4 / 4)):
        inputs = make_inputs(16, 70, dtype=dtype, scale=scale)
        with simulator(races="off"):
            actual = step("bickd", inputs)
        assert_right(actual, "bickd", inputs)


def test_a_batch_of_ignored_samples_has_loss_0_and_gradient_0() -> None:
    inputs = inputs_with(lambda inputs: inputs.target.fill_(-100))
    with simulator():
        loss, gradient = evaluate("bickd", inputs)
    assert loss == 0
    assert (gradient == 0).all()


def test_one_sample_has_nothing_to_contrast_with() -> None:
    inputs = make_inputs(1, 9, dtype=torch.float32)
    with simulator():
        _, terms = bickd_loss(*inputs, return_terms=True)
        bilateral = step("bilateral", inputs)
    assert abs(terms.sample_wise) <= 1e-6
    torch.testing.assert_close(terms.class_wise, torch.tensor(9.0).log(), rtol=1e-6, atol=0.0)
    assert bilateral.gradient.abs().max() <= 1e-7


@pytest.mark.parametrize("value", [NAN, INFINITY, "a row of -inf"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_what_has_no_result_is_nan(side: str, value: float | str) -> None:
    change = set_logits(side, 4, -INFINITY) if isinstance(value, str) else set_logits(side, (4, 69), value)
    inputs = inputs_with(change)
    with simulator(races="off"):
        loss, terms = bickd_loss(*inputs, return_terms=True)
    assert torch.isnan(loss)
    assert all(torch.isnan(term) for term in (terms.kd, terms.class_wise, terms.sample_wise))
    assert torch.isnan(terms.ce) == (side == "student")


def test_without_a_class_in_common_there_is_no_result() -> None:
    inputs = inputs_with(
        both(
            set_logits("student", (EVERY, slice(1, None, 2)), -INFINITY),
            set_logits("teacher", (EVERY, slice(0, None, 2)), -INFINITY),
            lambda inputs: inputs.target.fill_(0),
        )
    )
    with simulator(races="off"):
        _, terms = bickd_loss(*inputs, return_terms=True)
    assert all(torch.isnan(term) for term in (terms.kd, terms.class_wise, terms.sample_wise))
    expected = torch.nn.functional.cross_entropy(inputs.student.double(), inputs.target)
    torch.testing.assert_close(terms.ce.double(), expected, rtol=1e-6, atol=0.0)


def test_a_class_that_the_student_rules_out_and_the_teacher_does_not_costs_infinity_in_kd_alone() -> None:
    inputs = inputs_with(set_logits("student", (2, 5), -INFINITY))
    with simulator(races="off"):
        loss, terms = bickd_loss(*inputs, return_terms=True)
        without = step("bickd", inputs, kd_weight=0.0)
    assert loss == INFINITY
    assert terms.kd == INFINITY
    assert all(torch.isfinite(term) for term in (terms.ce, terms.class_wise, terms.sample_wise))
    assert_right(without, "bickd", inputs, kd_weight=0.0)


@pytest.mark.parametrize(
    "weights",
    [
        {"class_weight": 0.0},
        {"sample_weight": 0.0},
        {"bilateral_weight": 0.0},
        {"bilateral_weight": 0.0, "ce_weight": 0.0},
        {"bilateral_weight": 0.0, "kd_weight": 0.0},
        {"ce_weight": 0.0},
        {"ce_weight": -0.5, "kd_weight": 2.0},
    ],
)
def test_a_term_of_weight_0_takes_no_part(weights: dict[str, float]) -> None:
    inputs = inputs_with(FINITE["classes absent of one side each"])
    with simulator(races="off"):
        actual = step("bickd", inputs, **weights)
    assert_right(actual, "bickd", inputs, **weights)


def test_terms_are_those_of_the_definition() -> None:
    inputs = inputs_with(ignored(2))
    with simulator(races="off"):
        _, terms = bickd_loss(*inputs, return_terms=True, bilateral_weight=0.0)
    _, expected = call("bickd", as_double(inputs), backend="reference", return_terms=True, bilateral_weight=0.0)
    for term, true in zip(terms, expected, strict=True):
        torch.testing.assert_close(term.double(), true, rtol=2e-6, atol=1e-7)


def test_a_target_that_names_no_class_gives_nan_where_it_cannot_be_refused() -> None:
    inputs = inputs_with(lambda inputs: inputs.target.index_fill_(0, torch.tensor([1]), 70))
    with simulator(races="off"):
        actual = step("bickd", inputs)
    assert torch.isnan(actual.loss)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda logits: logits.T.contiguous().T,
    "rows of a wider tensor": lambda logits: torch.cat((logits, logits[:, :1]), 1)[:, :-1],
    "an odd offset": lambda logits: torch.cat((logits[:, :1], logits), 1)[:, 1:],
    "every second row": lambda logits: logits.repeat_interleave(2, 0)[::2],
    "every second class": lambda logits: logits.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_strides_do_not_show(layout: str) -> None:
    inputs = inputs_with()
    strided = inputs._replace(student=LAYOUTS[layout](inputs.student), teacher=LAYOUTS[layout](inputs.teacher))
    mixed = inputs._replace(teacher=LAYOUTS[layout](inputs.teacher))
    with simulator():
        expected = step("bickd", inputs)
        for other in (strided, mixed):
            actual = step("bickd", other)
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def test_an_expanded_teacher() -> None:
    inputs = inputs_with()
    expanded = inputs._replace(teacher=inputs.teacher[:1].expand(13, 70))
    with simulator():
        actual = step("bickd", expanded)
    assert_right(actual, "bickd", expanded)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float16), (torch.float16, torch.bfloat16)],
)
def test_dtypes_may_differ(student: torch.dtype, teacher: torch.dtype) -> None:
    inputs = make_inputs(20, 70, dtype=torch.float32)
    inputs = inputs._replace(student=inputs.student.to(student), teacher=inputs.teacher.to(teacher))
    with simulator():
        actual = step("bickd", inputs)
    assert_right(actual, "bickd", inputs)


def test_leading_dimensions_an_upstream_gradient_and_autocast() -> None:
    inputs = inputs_with()
    inputs = Inputs(*(tensor[:12] for tensor in inputs))
    _, expected = evaluate("bickd", as_double(inputs), backend="reference")
    deep = Inputs(inputs.student.reshape(3, 4, 70), inputs.teacher.reshape(3, 4, 70), inputs.target.reshape(3, 4).int())
    teacher = deep.teacher.clone().requires_grad_()
    student = deep.student.clone().requires_grad_()
    before = [tensor.clone() for tensor in (student, teacher, deep.target)]
    with simulator(races="off"), torch.autocast("cpu", dtype=torch.bfloat16):
        loss = bickd_loss(student, teacher, deep.target)
        upstream = torch.tensor([-3.0]).expand(5)[2]
        loss.backward(upstream)
    assert loss.dtype == torch.float32
    assert teacher.grad is None
    assert all(torch.equal(tensor, old) for tensor, old in zip((student, teacher, deep.target), before, strict=True))
    error = (student.grad.double().reshape(12, 70) + 3 * expected).abs().max()
    assert error <= 2e-6 * 3 * expected.abs().max()


def test_a_second_derivative_is_refused() -> None:
    inputs = inputs_with()
    student = inputs.student.requires_grad_()
    with simulator(races="off"):
        loss = bickd_loss(student, *inputs[1:])
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.autograd.grad(loss, student, create_graph=True)
