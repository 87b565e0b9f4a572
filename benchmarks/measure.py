"""Measures every provider on a case: memory one provider at a time, times interleaved over all providers."""

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
"""Time for all repetitions on one case, for forward and for forward and backward each."""

LEAST_REPETITIONS = 2
"""Minimum number of repetitions of a slow forward and backward; for a slow forward alone, one is enough."""


def measure_case(case: Case, device: str) -> list[Measurement]:
    """Times of the loss without and with its gradient, and memory; compiled for this shape only."""
    torch.compiler.reset()
    able, skipped = _who_fits(case, device, providers(case, device))
    inputs = make_inputs(case, device)
    measured = _with_backward(case, device, able, inputs, SECONDS)
    steps = {provider.name: forward(provider, case, inputs) for provider in able}
    if "compiled" in steps:
        # Only the compiled one needs a warm-up: without a gradient it is recompiled.
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
    """The providers that can run, and measurements that say why the others are skipped."""
    reasons = {provider.name: shortage(provider.name, case, device) for provider in found}
    able = [provider for provider in found if not reasons[provider.name]]
    return able, [Measurement(case, name, skipped=reason) for name, reason in reasons.items() if reason]


def _with_backward(case: Case, device: str, able: list[Provider], inputs: Inputs, seconds: float) -> list[Measurement]:
    # The memory measurement also serves as the first call, which must not be timed.
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
    # A gradient left by an earlier call would not count as memory of this one.
    inputs.student.grad = None
    bytes_ = peak_bytes(forward_and_backward(provider, case, inputs), device)
    inputs.student.grad = None
    return bytes_
