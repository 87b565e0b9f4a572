"""The ``torch`` backend: panels of every kind, accuracy before and after its output is rounded, and what it allocates."""

from functools import partial
from typing import Any

import pytest
import torch
from cases import (
    KINDS,
    ROUNDING,
    SHAPES,
    Inputs,
    batch_of,
    evaluate,
    make_inputs,
    settings_of,
    term_rounding,
    typical_errors,
    with_absences,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bickd_kernels import bickd_loss
from bickd_kernels.backends import torch as torch_backend
from bickd_kernels.backends.torch import contrast

BUDGETS = {"every panel twice": 0, "some panels kept": 700, "every panel kept": 2**30}


def use_panels(monkeypatch: pytest.MonkeyPatch, *, rows: int, budget: int) -> None:
    """Sets the number of rows of a panel, and how many bytes of panels are kept."""
    monkeypatch.setattr(contrast, "PANEL_BYTES", 1)
    monkeypatch.setattr(contrast, "MIN_PANEL_ROWS", rows)
    monkeypatch.setattr(contrast, "SIMILARITY_BUDGET_BYTES", budget)


def assert_is_reference(kind: str, inputs: Inputs, **options: Any) -> None:
    loss, gradient = evaluate(kind, inputs, backend="torch", **options)
    expected, expected_gradient = evaluate(kind, inputs, backend="reference", **options)
    rounding = term_rounding(contrast_temperature=options.get("contrast_temperature", 0.2))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=rounding)
    # With one sample or one class the gradient is 0, so its error cannot be relative to it.
    assert (gradient - expected_gradient).abs().max() <= 1e-10 * expected_gradient.abs().max() + 1e-14


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("contrast_temperature", [0.02, 0.2, 2.0])
def test_results_match_the_reference(kind: str, shape: tuple[int, int], contrast_temperature: float) -> None:
    assert_is_reference(kind, make_inputs(*shape), contrast_temperature=contrast_temperature)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(211, 37), (37, 211), (1, 307), (307, 1)])
def test_results_match_the_reference_at_larger_sizes(kind: str, shape: tuple[int, int]) -> None:
    assert_is_reference(kind, make_inputs(*shape))


@pytest.mark.parametrize("budget", list(BUDGETS))
@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (11, 11), (1, 7), (7, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_panels_do_not_change_the_result(
    kind: str, shape: tuple[int, int], rows: int, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_panels(monkeypatch, rows=rows, budget=BUDGETS[budget])
    assert_is_reference(kind, make_inputs(*shape))


@pytest.mark.parametrize("budget", list(BUDGETS))
@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("shape", [(7, 13), (13, 7)])
@pytest.mark.parametrize("kind", ["bilateral", "bickd"])
def test_panels_with_ignored_rows_and_absent_classes_do_not_change_the_result(
    kind: str, shape: tuple[int, int], rows: int, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_panels(monkeypatch, rows=rows, budget=BUDGETS[budget])
    assert_is_reference(kind, with_absences(make_inputs(*shape)))


@pytest.mark.parametrize("budget", list(BUDGETS))
def test_panels_with_absent_classes_and_no_targets_do_not_change_the_result(
    budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_panels(monkeypatch, rows=3, budget=BUDGETS[budget])
    inputs = make_inputs(8, 13)
    inputs.student[:, [0, 5, 12]] = -torch.inf
    inputs.teacher[:, 7] = -torch.inf
    assert_is_reference("bilateral_unlabelled", inputs)


def test_a_panel_of_ignored_rows_alone_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    use_panels(monkeypatch, rows=3, budget=0)
    inputs = make_inputs(10, 4)
    inputs.target[3:6] = -100
    assert_is_reference("bickd", inputs)


def assert_as_exact_as_reference(kind: str, batches: list[Inputs], **options: Any) -> None:
    reference = partial(evaluate, kind, backend="reference", **options)
    loss, gradient = typical_errors(partial(evaluate, kind, backend="torch", **options), reference, batches)
    eager_loss, eager_gradient = typical_errors(reference, reference, batches)
    # The floor is the one rounding of the result: the loss to float32, the gradient to the student's dtype.
    floor = max(ROUNDING[batches[0].student.dtype], 1e-7)
    assert loss <= 2 * eager_loss + 1e-7
    assert gradient <= 2 * eager_gradient + floor


@pytest.mark.parametrize("shape", [(29, 5), (5, 29), (64, 101), (307, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("contrast_temperature", [0.02, 0.2])
@pytest.mark.parametrize("panels", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_as_accurate_as_the_reference(
    kind: str,
    panels: bool,
    contrast_temperature: float,
    dtype: torch.dtype,
    shape: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if panels:
        use_panels(monkeypatch, rows=13, budget=0)
    assert_as_exact_as_reference(
        kind,
        [make_inputs(*shape, dtype=dtype, seed=seed) for seed in range(8)],
        contrast_temperature=contrast_temperature,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_16_bit_logits_have_float32_accuracy_before_they_are_rounded(dtype: torch.dtype) -> None:
    def unrounded(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        result = torch_backend.compute(batch_of("bickd", inputs), settings_of("bickd"), slice(None))
        assert result.gradient is not None
        assert result.gradient.dtype == torch.float32
        return result.terms[1], result.gradient

    def single(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        widened = Inputs(inputs.student.float(), inputs.teacher.float(), inputs.target)
        _, gradient = evaluate("bickd", widened, backend="reference")
        return bickd_loss(*widened, return_terms=True, backend="reference")[1].kd, gradient

    def truth(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        _, gradient = evaluate("bickd", inputs, backend="reference")
        return bickd_loss(*inputs, return_terms=True, backend="reference")[1].kd, gradient

    batches = [make_inputs(31, 43, dtype=dtype, seed=seed) for seed in range(8)]
    errors, eager_errors = typical_errors(unrounded, truth, batches), typical_errors(single, truth, batches)
    assert all(error <= 2 * eager + 1e-7 for error, eager in zip(errors, eager_errors, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_tiny_mass_keeps_its_direction_in_float32(kind: str) -> None:
    batches = [make_inputs(23, 7, dtype=torch.float32, seed=seed) for seed in range(8)]
    for inputs in batches:
        # Probabilities of exp(-128 / t), whose squares are 0 in float32; those of the teacher's class are 0 themselves.
        inputs.student[:, 3] -= 128.0
        inputs.teacher[:, 5] -= 512.0
        inputs.target.fill_(0)
    assert_as_exact_as_reference(kind, batches)


class LargestOutput(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def largest_output(kind: str, inputs: Inputs) -> int:
    # Not through the operator, because a dispatch mode does not see inside it.
    with LargestOutput() as largest:
        torch_backend.compute(batch_of(kind, inputs), settings_of(kind), slice(None))
    return largest.numel


@pytest.mark.parametrize("shape", [(8, 300), (300, 8)])
@pytest.mark.parametrize("absences", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_no_similarity_matrix_beyond_the_budget_is_allocated(
    kind: str, absences: bool, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(*shape)
    if absences:
        inputs = with_absences(inputs)
    if kind == "bilateral_unlabelled":
        inputs.student[1] = 0.0
    # The measure sees a whole matrix where one is allowed.
    assert largest_output(kind, inputs) >= 300 * 300
    use_panels(monkeypatch, rows=7, budget=0)
    # The largest tensor holds the logits of both networks; a panel of 7 rows is smaller.
    assert largest_output(kind, inputs) <= 2 * 8 * 300


def test_kept_panels_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    product = torch.mm

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(product(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(torch, "mm", spy)
    use_panels(monkeypatch, rows=10, budget=3 * 10 * 40 * 8)
    inputs = make_inputs(6, 40)
    evaluate("bilateral_unlabelled", inputs, sample_wise_weight=0.0)
    # Four panels: each is computed for the sums, and the one beyond the budget again for the gradient.
    assert [tuple(panel.shape) for panel in seen].count((10, 40)) == 4 + 1
