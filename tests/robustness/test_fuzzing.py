"""Random calls give the result of the definition, within the bounds of rounding, or a documented error; no input changes.

There are 1000 calls by default, always the same. ``BICKD_FUZZ_CASES=100000`` (``make fuzz``) draws that many, new ones each
time.
"""

import faulthandler
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from cases import KINDS, LABELLED_KINDS, Inputs, as_double, call
from enclosure import Interval, Options, Rounding, enclose, valid_rows
from fuzz_cases import Case, cases
from fuzz_mistakes import mistakes
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bickd_kernels.backends.contract import compute_dtype

CASES = int(os.environ.get("BICKD_FUZZ_CASES", "1000"))
LONGEST_CASE = 60
"""Seconds after which a case counts as hanging."""

BACKENDS = [("cpu", "torch"), ("cpu", "reference")]
if torch.cuda.is_available():
    BACKENDS += [("cuda", "torch"), ("cuda", "reference"), ("cuda", "triton")]

BICKD_WEIGHTS = {"ce_weight": 0.1, "kd_weight": 0.9, "bilateral_weight": 4.0}


def fuzz(share: float) -> settings:
    """Settings of a test with this share of the cases."""
    return settings(
        max_examples=round(share * CASES),
        derandomize="BICKD_FUZZ_CASES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def watch(pytestconfig: pytest.Config) -> Iterator[Callable[[], None]]:
    """To be called before each case: if the case hangs, the process ends with a traceback, which pytest does not capture."""
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        stderr = os.fdopen(os.dup(2), "w")
    yield lambda: faulthandler.dump_traceback_later(LONGEST_CASE, exit=True, file=stderr)
    faulthandler.cancel_dump_traceback_later()
    stderr.close()


class Outcome(NamedTuple):
    """What a call returned, and the gradient with respect to the student's logits."""

    loss: Tensor
    terms: dict[str, Tensor]
    gradient: Tensor


def outcome(case: Case, inputs: Inputs, backend: str) -> Outcome:
    """Calls the loss forward and backward."""
    student = inputs.student.detach().requires_grad_()
    result = call(case.kind, inputs._replace(student=student), **case.options, backend=backend)
    loss, terms = result if case.options["return_terms"] else (result, None)
    (gradient,) = torch.autograd.grad(loss, student)
    return Outcome(loss.detach(), {} if terms is None else terms._asdict(), gradient)


def effective_weights(case: Case) -> dict[str, float]:
    """The weight of each term that is computed."""
    options = {
        "class_wise_weight": 1.0,
        "sample_wise_weight": 1.0,
        **(BICKD_WEIGHTS if case.kind == "bickd" else {}),
        **case.options,
    }
    factor = options.get("bilateral_weight", 1.0)
    weights = {name: options[f"{name}_weight"] for name in ("ce", "kd") if case.kind == "bickd"}
    weights |= {"class_wise": factor * options["class_wise_weight"], "sample_wise": factor * options["sample_wise_weight"]}
    return {name: weight for name, weight in weights.items() if weight != 0 or options["return_terms"]}


class Batch(NamedTuple):
    """A flattened batch in float64, with the properties that docs/loss.md distinguishes."""

    student: Tensor
    teacher: Tensor
    target: Tensor | None
    valid: Tensor

    @classmethod
    def of(cls, case: Case) -> "Batch":
        classes = case.inputs.student.shape[-1]
        student, teacher = (logits.double().reshape(-1, classes) for logits in case.inputs[:2])
        target = case.target
        if target is not None:
            target = target.double().reshape(-1, classes) if target.is_floating_point() else target.reshape(-1)
        return cls(student, teacher, target, valid_rows(student, target, case.options["ignore_index"]))

    @property
    def has_meaning(self) -> bool:
        """Whether no valid row holds NaN or +inf, and each has a class that belongs to the batch."""
        x, y = self.student[self.valid], self.teacher[self.valid]
        present = (x != -torch.inf).any(0) & (y != -torch.inf).any(0)
        return all(bool((z < torch.inf).all() and (z[:, present] != -torch.inf).any(1).all()) for z in (x, y))

    def in_range(self, case: Case, dtype: torch.dtype) -> bool:
        """Whether differences of logits, divided by a temperature, stay within the range of the dtype."""
        sharpest = min(1.0, case.options["temperature"], case.options.get("kd_temperature", 1.0))
        finite = [z[self.valid].masked_fill(z[self.valid].isinf(), 0.0) for z in (self.student, self.teacher)]
        return all(bool((z.abs().max() / sharpest) <= torch.finfo(dtype).max / 16) for z in finite)


def assert_within(what: str, actual: Tensor, bounds: Interval, or_not_finite: bool = False) -> None:
    """Each entry is within its bounds."""
    wrong = bounds.excludes(actual)
    if or_not_finite:
        wrong &= actual.isfinite()
    low, high = (bound.reshape(actual.shape)[wrong].tolist() for bound in bounds)
    assert not wrong.any(), f"{what}: {actual[wrong].tolist()} is not within {low}, {high}"


def decades(bounds: Interval) -> str:
    """The width of bounds relative to the largest entry, as a power of ten."""
    width = (bounds.high - bounds.low).max() / bounds.magnitude.max()
    return "none" if not width.isfinite() or width <= 0 else f"1e{round(float(width.log10())):+03d}"


def assert_defined(case: Case, backend: str, actual: Outcome) -> None:
    """The outcome is what docs/loss.md says of this batch."""
    batch, dtype = Batch.of(case), compute_dtype(*case.inputs[:2])
    assert actual.loss.dtype == dtype
    assert (actual.gradient.dtype, actual.gradient.shape) == (case.inputs.student.dtype, case.inputs.student.shape)
    assert all(term.dtype == dtype and not term.requires_grad for term in actual.terms.values())
    if not batch.valid.any():
        event("no valid row")
        assert all(bool((value == 0).all()) for value in (actual.loss, *actual.terms.values(), actual.gradient))
        return
    truth = outcome(case, as_double(case.inputs), "reference")
    if not batch.has_meaning:
        event("a row without meaning")
        assert torch.equal(actual.loss.isnan().cpu(), truth.loss.isnan())
        assert {name: bool(term.isnan()) for name, term in actual.terms.items()} == {
            name: bool(term.isnan()) for name, term in truth.terms.items()
        }
        return
    in_range = batch.in_range(case, dtype)
    if dtype == torch.float64 and not in_range:
        event("beyond the range of float64")
        return
    operand_unit = 0.0
    if backend == "triton":
        # docs/performance.md: float16 operands, or each the sum of two of them.
        operand_unit = 2.0**-10 if case.inputs.student.element_size() == 2 else 2.0**-20
    enclosure = enclose(
        *batch[:3],
        Rounding.of(dtype, *batch.student.shape, operand_unit),
        effective_weights(case),
        Options(**{name: value for name, value in case.options.items() if name in Options._fields}),
    )
    event(f"bound of the loss, {dtype}: {decades(enclosure.loss)}")
    event(f"bound of the gradient, {dtype}: {decades(enclosure.gradient)}")
    event(f"within the range of the dtype: {in_range}")
    for result in (truth, actual):
        beyond = result is actual and not in_range
        assert_within("loss", result.loss.cpu(), enclosure.loss, beyond)
        for name, term in result.terms.items():
            assert_within(name, term.cpu(), enclosure.terms[name], beyond)
        assert_within("gradient", result.gradient.cpu(), enclosure.gradient, beyond)


def memory(tensor: Tensor) -> bytes:
    """All bytes of a tensor's storage, including those outside a view, and its version."""
    untyped = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
    return bytes(untyped.cpu().numpy()) + tensor._version.to_bytes(8, "big")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("device", "backend"), BACKENDS)
@fuzz(0.13)
@given(data=st.data())
def test_any_call_has_the_result_of_the_definition(
    device: str, backend: str, kind: str, data: st.DataObject, watch: Callable[[], None]
) -> None:
    watch()
    case = data.draw(cases(kind))
    inputs = Inputs(*(tensor.to(device) for tensor in case.inputs))
    if backend == "triton" and compute_dtype(*inputs[:2]) == torch.float64:
        with pytest.raises(ValueError, match=r"^backend"):
            call(kind, inputs, **case.options, backend=backend)
        return
    before = [memory(tensor) for tensor in inputs]
    actual = outcome(case, inputs, backend)
    assert [memory(tensor) for tensor in inputs] == before
    assert_defined(case, backend, actual)


@pytest.mark.parametrize("kind", LABELLED_KINDS)
@fuzz(0.11)
@given(data=st.data())
def test_an_error_names_the_wrong_argument(kind: str, data: st.DataObject, watch: Callable[[], None]) -> None:
    watch()
    mistake = data.draw(mistakes(kind))
    event(f"{mistake.argument}: {mistake.got}")
    with pytest.raises((TypeError, ValueError), match=rf"^{mistake.argument} must "):
        call(kind, mistake.inputs, **mistake.options)
