"""Rows that contain NaN, +inf or nothing but -inf, and targets that name no class: the terms that use them are NaN."""

import pytest
import torch
from cases import KINDS, POISONS, make_inputs, poisoned, with_absences
from checks import TILED, single
from definition import assert_terms_are_those_of_the_definition, computed, computed_terms
from simulate import simulator

from bickd_kernels import bickd_loss, bilateral_loss


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


@pytest.mark.parametrize("wrong", [-1, 5, 10**6, -(10**6), 2**32 + 1])
def test_a_target_that_names_no_class_gives_nan(wrong: int) -> None:
    # On a GPU the values of a target are not checked before the launch, which would synchronize.
    inputs = single(19, 5)
    inputs.target[3] = wrong
    loss, _ = computed("bickd", inputs)
    _, terms = computed_terms("bickd", inputs)
    assert loss.isnan()
    assert terms[0].isnan()
