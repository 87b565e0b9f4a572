"""Logits of -inf in some rows, saturated logits and probabilities that underflow."""

import pytest
import torch
from cases import KINDS, SATURATED, as_double, evaluate, saturated, with_absences
from checks import TILED, few_logits, single
from definition import assert_close_to, assert_is_the_definition, assert_terms_are_those_of_the_definition, computed

from bickd_kernels.backends.triton import planning


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
