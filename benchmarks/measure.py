"""Measures every provider on a case: one after the other for their memory, and all of them in turn for their times."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from benchmarks.cases import Case, Inputs, make_inputs
from benchmarks.fitting import shortage
from benchmarks.memory import peak_bytes
from benchmarks.providers import Provider, forward, forward_and_backward, providers
from benchmarks.results import Measurement
from benchmarks.timing import Spread, interleaved, ratios, spread

SECONDS, SECONDS_IN_SERIES = 4.0, 2.0
"""Of repetitions, for forward and for forward and backward of one case."""

LEAST_REPETITIONS = 2
"""Of forward and backward where they take longer; of forward alone one is enough then."""


def measure_case(case: Case, device: str) -> list[Measurement]:
    """Times of the loss without and with its gradient, and memory; compiled for this shape alone."""
    torch.compiler.reset()
    able, skipped = _who_fits(case, device, providers(case, device))
    inputs = make_inputs(case, device)
    measured = _with_backward(case, device, able, inputs, SECONDS)
    steps = {provider.name: forward(provider, case, inputs) for provider in able}
    if "compiled" in steps:
        # All have run but this one: without a gradient it is compiled anew.
        steps["compiled"]()
    alone = interleaved(steps, seconds=SECONDS, least=1, device=device, warm_up=False)
    return skipped + [replace(one, forward=spread(alone[one.provider])) for one in measured]


def measure_series(cases: Iterable[Case], device: str) -> Iterator[list[Measurement]]:
    """Times of the loss with its gradient, and memory, shape by shape; compiled once for all of them."""
    torch.compiler.reset()
    for case in cases:
        able, skipped = _who_fits(case, device, providers(case, device, any_shape=True))
        yield skipped + _with_backward(case, device, able, make_inputs(case, device), SECONDS_IN_SERIES)


def _who_fits(case: Case, device: str, found: list[Provider]) -> tuple[list[Provider], list[Measurement]]:
    """The providers that can run, and what is known of the others."""
    reasons = {provider.name: shortage(provider.name, case, device) for provider in found}
    able = [provider for provider in found if not reasons[provider.name]]
    return able, [Measurement(case, name, skipped=reason) for name, reason in reasons.items() if reason]


def _with_backward(case: Case, device: str, able: list[Provider], inputs: Inputs, seconds: float) -> list[Measurement]:
    # The call whose memory is counted is the first, which would be none of those that are timed.
    peaks = {provider.name: _peak(provider, case, inputs, device) for provider in able}
    steps = {provider.name: forward_and_backward(provider, case, inputs) for provider in able}
    times = interleaved(steps, seconds=seconds, least=LEAST_REPETITIONS, device=device, warm_up=False)
    bilateral = {provider.name for provider in able if provider.is_bilateral}
    return [
        Measurement(
            case,
            name,
            forward_and_backward=spread(own),
            to_reference=_ratio(own, times.get("reference")),
            to_products=_ratio(own, times.get("products")) if name in bilateral else None,
            peak_bytes=peaks[name],
        )
        for name, own in times.items()
    ]


def _ratio(times: list[float], others: list[float] | None) -> Spread | None:
    return None if others is None else spread(ratios(times, others))


def _peak(provider: Provider, case: Case, inputs: Inputs, device: str) -> int:
    # What an earlier call left there would not be counted as this one's.
    inputs.student.grad = None
    bytes_ = peak_bytes(forward_and_backward(provider, case, inputs), device)
    inputs.student.grad = None
    return bytes_
