"""The bounds of the fuzz tests are narrow where a batch is well conditioned: wrong results are outside them.

The bounds and the wrong results come from float64 arithmetic alone, so these tests do not depend on how a machine rounds.
"""

from typing import Any

import pytest
import torch
from cases import Inputs, as_double, evaluate, make_inputs, with_absences
from enclosure import Enclosure, Options, Rounding, enclose
from torch import Tensor

TERMS = {"ce": "ce_weight", "kd": "kd_weight", "class_wise": "class_wise_weight", "sample_wise": "sample_wise_weight"}

SHAPES = [(7, 5), (19, 8), (5, 17)]

LOSS, GRADIENT = 2.0**14, 2.0**18
"""Errors of a loss and of a gradient entry, in units of their dtype's epsilon: 0.2 % and 3 % in float32.

Bounds cannot be much narrower: they allow for about 100 roundings in a step, whose errors are divided by the contrast
temperature.
"""


def weights_of(terms: tuple[str, ...]) -> dict[str, float]:
    """Options that weight these terms with 1 and leave out the others."""
    return {"bilateral_weight": 1.0, **{option: float(name in terms) for name, option in TERMS.items()}}


def batch(shape: tuple[int, int], target: str, absences: bool) -> Inputs:
    """A batch without sharp probabilities, in float64."""
    inputs = as_double(make_inputs(*shape, dtype=torch.float32, scale=1.0))
    if absences:
        inputs = with_absences(inputs)
    if target == "labels":
        return inputs
    probabilities = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    probabilities[:, [0, 2]] = 0.0
    probabilities[inputs.target == -100] = 0.0
    return inputs._replace(target=probabilities / probabilities.sum(1, keepdim=True).clamp_min(1e-9))


def bounds_of(inputs: Inputs, dtype: torch.dtype, terms: tuple[str, ...], **options: Any) -> Enclosure:
    rounding = Rounding.of(dtype, *inputs.student.shape)
    return enclose(*inputs, rounding, dict.fromkeys(terms, 1.0), Options(**options))


def true_result(inputs: Inputs, terms: tuple[str, ...], **options: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient by definition."""
    return evaluate("bickd", inputs, backend="reference", **weights_of(terms), **options)


@pytest.mark.parametrize("similarity", ["cosine", "correlation"])
@pytest.mark.parametrize("absences", [False, True])
@pytest.mark.parametrize("target", ["labels", "probabilities"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("term", TERMS)
def test_an_error_in_any_entry_is_outside_the_bounds(
    term: str, shape: tuple[int, int], target: str, absences: bool, similarity: str
) -> None:
    inputs = batch(shape, target, absences)
    options = {"similarity": similarity, "label_smoothing": 0.1}
    loss, gradient = true_result(inputs, (term,), **options)
    for dtype in (torch.float32, torch.float64):
        bounds = bounds_of(inputs, dtype, (term,), **options)
        assert not bounds.loss.excludes(loss)
        assert not bounds.gradient.excludes(gradient).any()
        epsilon = torch.finfo(dtype).eps
        for sign in (1, -1):
            assert bounds.loss.excludes(loss * (1 + sign * LOSS * epsilon))
            assert bounds.terms[term].excludes(loss * (1 + sign * LOSS * epsilon))
            assert bounds.gradient.excludes(gradient + sign * GRADIENT * epsilon * gradient.abs().max()).all()


@pytest.mark.parametrize(
    "mistake",
    [
        {"temperature": 2.2},
        {"contrast_temperature": 0.22},
        {"kd_temperature": 3.0},
        {"label_smoothing": 0.15},
        {"positives": "sample"},
        {"ignore_index": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("similarity", ["cosine", "correlation"])
def test_the_result_of_other_options_is_outside_the_bounds(mistake: dict[str, Any], similarity: str) -> None:
    inputs = batch((19, 8), "labels", absences=False)
    options = {"similarity": similarity, "label_smoothing": 0.1}
    bounds = bounds_of(inputs, torch.float32, tuple(TERMS), **options)
    loss, gradient = true_result(inputs, tuple(TERMS), **{**options, **mistake})
    assert bounds.loss.excludes(loss)
    assert bounds.gradient.excludes(gradient).any()


def test_the_result_of_the_other_similarity_is_outside_the_bounds() -> None:
    inputs = batch((19, 8), "labels", absences=False)
    for mine, other in (("cosine", "correlation"), ("correlation", "cosine")):
        bounds = bounds_of(inputs, torch.float32, tuple(TERMS), similarity=mine)
        loss, gradient = true_result(inputs, tuple(TERMS), similarity=other)
        assert bounds.loss.excludes(loss)
        assert bounds.gradient.excludes(gradient).any()


def test_a_wrong_label_is_outside_the_bounds() -> None:
    inputs = batch((19, 8), "labels", absences=False)
    bounds = bounds_of(inputs, torch.float32, tuple(TERMS))
    wrong = inputs.target.clone()
    wrong[3] = (wrong[3] + 1) % 8
    loss, gradient = true_result(inputs._replace(target=wrong), tuple(TERMS))
    assert bounds.loss.excludes(loss)
    assert bounds.gradient.excludes(gradient)[3].any()


@pytest.mark.parametrize("similarity", ["cosine", "correlation"])
def test_a_constant_vector_has_exact_bounds(similarity: str) -> None:
    inputs = batch((7, 5), "labels", absences=False)
    inputs.student[:] = 0.5
    bounds = bounds_of(inputs, torch.float32, ("sample_wise",), similarity=similarity)
    loss, gradient = true_result(inputs, ("sample_wise",), similarity=similarity)
    assert not bounds.loss.excludes(loss)
    assert bounds.loss.excludes(loss + LOSS * torch.finfo(torch.float32).eps)
    assert not bounds.gradient.excludes(gradient).any()
