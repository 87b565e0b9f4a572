"""``bickd_kernels.accuracy``: the batches and error bounds that the self-check and ``make gpu-check`` share."""

from typing import Any

import pytest
import torch

from bickd_kernels.accuracy import Case, compare, definition, evaluate, make_batch

KINDS = [
    Case(17, 29, torch.float32),
    Case(17, 29, torch.float32, absences=True),
    Case(17, 29, torch.bfloat16, target="probabilities", absences=True, options={"label_smoothing": 0.1}),
    Case(17, 29, torch.float16, loss="bilateral_loss", target="none"),
    Case(17, 29, torch.float32, layout="strided", options={"bilateral_temperature": 0.5}),
    Case(17, 29, torch.float32, layout="offset", options={"contrast_temperature": 0.02}),
    Case(1, 7, torch.float32),
]


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_the_torch_backend_is_within_the_bounds_in_every_kind_of_case(case: Case) -> None:
    batch = make_batch(case)
    errors = compare(case, "torch", evaluate(case, batch, "torch"), definition(case, batch))
    assert errors.passed, str(errors)


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_slightly_wrong_results_exceed_the_bounds(case: Case) -> None:
    batch = make_batch(case)
    loss, gradient = definition(case, batch)
    wrong = gradient * (1.02 if case.dtype != torch.float32 else 1.00002)
    assert not compare(case, "torch", (loss, wrong), (loss, gradient)).passed
    assert not compare(case, "torch", (loss * 1.001, gradient), (loss, gradient)).passed
    assert not compare(case, "torch", (loss, gradient * torch.nan), (loss, gradient)).passed


def test_only_kernels_for_16_bit_logits_have_the_bound_of_single_fp16_operands() -> None:
    def bound(backend: str, dtype: torch.dtype, samples: int = 17, **options: Any) -> float:
        case = Case(samples, 29, dtype, options=options)
        true = definition(case, make_batch(case))
        return compare(case, backend, true, true).gradient_tolerance - 2**-8 * (dtype == torch.bfloat16)

    assert bound("triton", torch.bfloat16) > 1e-3
    assert bound("torch", torch.bfloat16) < 1e-5
    assert bound("triton", torch.float32) < 1e-5
    assert bound("triton", torch.bfloat16, samples=8) < 1e-5
    assert bound("triton", torch.bfloat16, contrast_temperature=0.02) < 1e-5
    assert bound("triton", torch.bfloat16, bilateral_temperature=0.5) < 1e-5
    assert bound("triton", torch.bfloat16, contrast_temperature=0.12) > 1e-3
    assert bound("triton", torch.bfloat16, contrast_temperature=0.12, similarity="correlation") < 1e-5


def test_layouts_hold_the_same_numbers_with_the_strides_of_their_names() -> None:
    plain, strided, offset = (
        make_batch(Case(17, 29, torch.float32, layout=each)) for each in ("contiguous", "strided", "offset")
    )
    for other in (strided, offset):
        assert torch.equal(plain.student, other.student)
        assert torch.equal(plain.teacher, other.teacher)
    assert (strided.student.stride(), strided.teacher.stride()) == ((30, 1), (1, 17))
    assert offset.student.data_ptr() % 16 != 0
