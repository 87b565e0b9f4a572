"""The cases of ``make bench`` for pytest-benchmark, to compare revisions on one machine.

    pytest benchmarks/ --benchmark-autosave              measures and saves
    pytest benchmarks/ --benchmark-compare               measures and compares with the last saved run
    pytest benchmarks/ -k "ImageNet-256 and torch"       only some cases

This compares absolute times between runs; ``make bench-check`` compares ratios within one run.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases import CASES, Case, make_inputs
from benchmarks.fitting import shortage
from benchmarks.providers import Provider, forward, forward_and_backward, providers
from benchmarks.timing import Step, retain_freed_memory

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

SLOW = 10**9
"""Number of logits times number of contrasted vectors above which one call takes seconds."""


def label(case: Case) -> str:
    return f"{case.name}-{case.samples}x{case.classes}"


@pytest.mark.parametrize("kind", [forward, forward_and_backward], ids=["forward", "forward-and-backward"])
@pytest.mark.parametrize("provider", [provider.name for provider in providers(CASES[0], DEVICE)])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_bilateral_loss(
    case: Case, provider: str, kind: Callable[..., Step], benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    """Measures one provider on one case; each group compares the providers."""
    reason = shortage(provider, case, DEVICE)
    if reason:
        pytest.skip(f"{provider} on {label(case)} {reason}")
    benchmark.group = f"{label(case)}, {kind.__name__.replace('_', ' ')}"
    torch.compiler.reset()
    retain_freed_memory()
    step = on_device(kind(named(provider, case), case, make_inputs(case, DEVICE)))
    if case.samples * case.classes * (case.samples + case.classes) < SLOW:
        step()
        benchmark(step)
    else:
        benchmark.pedantic(step, rounds=3, warmup_rounds=1)


def named(provider: str, case: Case) -> Provider:
    return next(found for found in providers(case, DEVICE) if found.name == provider)


def on_device(step: Step) -> Step:
    """The step, followed by a device synchronisation."""
    if DEVICE == "cpu":
        return step

    def waiting() -> None:
        step()
        torch.cuda.synchronize()

    return waiting
