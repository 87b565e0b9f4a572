"""Measures every provider on a case: all of them in turn for their times, then one after the other for their memory."""

from collections.abc import Callable, Iterable, Iterator

import torch

from benchmarks.cases import Case, Inputs, make_inputs
from benchmarks.fitting import shortage
from benchmarks.memory import peak_bytes
from benchmarks.providers import Provider, forward, forward_and_backward, providers
from benchmarks.results import Measurement
from benchmarks.timing import Step, interleaved, ratios, spread

Kind = Callable[[Provider, Case, Inputs], Step]

SECONDS = 4.0
"""Of repetitions, for forward and for forward and backward of one case."""

LEAST_REPETITIONS = 3
"""Also where they take longer."""

SECONDS_IN_SERIES = 2.0


def measure_case(case: Case, device: str) -> list[Measurement]:
    """Times of the loss without and with its gradient, and memory; compiled for this shape alone."""
    torch.compiler.reset()
    return list(_measure(case, device, providers(case, device), (forward, forward_and_backward), SECONDS))


def measure_series(cases: Iterable[Case], device: str) -> Iterator[list[Measurement]]:
    """Times of the loss with its gradient, and memory, shape by shape; compiled once for all of them."""
    torch.compiler.reset()
    for case in cases:
        found = providers(case, device, any_shape=True)
        yield list(_measure(case, device, found, (forward_and_backward,), SECONDS_IN_SERIES))


def _measure(
    case: Case, device: str, found: list[Provider], kinds: tuple[Kind, ...], seconds: float
) -> Iterator[Measurement]:
    reasons = {provider.name: shortage(provider.name, case, device) for provider in found}
    able = [provider for provider in found if not reasons[provider.name]]
    inputs = make_inputs(case, device)
    times = {kind: _times(kind, able, case, inputs, seconds, device) for kind in kinds}
    for provider in found:
        name = provider.name
        if reasons[name]:
            yield Measurement(case, name, skipped=reasons[name])
            continue
        both = times[forward_and_backward][name]
        reference = times[forward_and_backward].get("reference")
        yield Measurement(
            case,
            name,
            forward=spread(times[forward][name]) if forward in times else None,
            forward_and_backward=spread(both),
            to_reference=None if reference is None else spread(ratios(both, reference)),
            peak_bytes=_peak(provider, case, inputs, device),
        )


def _times(
    kind: Kind, able: list[Provider], case: Case, inputs: Inputs, seconds: float, device: str
) -> dict[str, list[float]]:
    steps = {provider.name: kind(provider, case, inputs) for provider in able}
    return interleaved(steps, seconds=seconds, least=LEAST_REPETITIONS, device=device)


def _peak(provider: Provider, case: Case, inputs: Inputs, device: str) -> int:
    # What an earlier call left there would not be counted as this one's.
    inputs.student.grad = None
    bytes_ = peak_bytes(forward_and_backward(provider, case, inputs), device)
    inputs.student.grad = None
    return bytes_
