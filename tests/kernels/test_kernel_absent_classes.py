"""Classes that every sample of student or teacher excludes by logits of -inf."""

import pytest
import torch
from cases import KINDS, LABELLED_KINDS
from checks import TILED, single
from definition import assert_is_the_definition, assert_terms_are_those_of_the_definition, computed

SIDES = [("student",), ("teacher",), ("student", "teacher")]


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
