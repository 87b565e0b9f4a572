"""Whether a call fits into memory, estimated from a smaller one: on a CPU, running out of memory cannot be caught.

Every array of a loss is ``B x C``, ``B x B`` or ``C x C``: dividing both sizes by s divides its bytes by s^2.
"""

from functools import cache

from benchmarks.cases import Case, make_inputs
from benchmarks.machine import available_bytes
from benchmarks.memory import peak_bytes
from benchmarks.providers import forward_and_backward, providers

REDUCTION = 8
"""The smaller call has both sizes divided by this."""

SMALLEST_JUDGED = 2**31
"""16 times the bytes of the largest matrix: a call below this always fits."""

SHARE = 0.9
"""The share of the available memory that a call may take."""


def shortage(provider: str, case: Case, device: str) -> str:
    """Why this provider's forward and backward does not fit, or an empty string."""
    if 16 * 4 * max(case.samples, case.classes) ** 2 < SMALLEST_JUDGED:
        return ""
    needed, available = expected_bytes(provider, case, device), available_bytes(device)
    if needed <= SHARE * available:
        return ""
    return f"needs about {needed / 1e9:.1f} GB of {available / 1e9:.1f} GB available"


@cache
def expected_bytes(provider: str, case: Case, device: str) -> int:
    """Peak bytes extrapolated from the smaller call, inputs included.

    For the compiled definition, the larger memory of the eager definition is assumed, because compiling would take longer
    than running. Providers with panels of a fixed size are overestimated.
    """
    measured = "reference" if provider == "compiled" else provider
    smaller = case._replace(samples=-(-case.samples // REDUCTION), classes=-(-case.classes // REDUCTION))
    found = next(one for one in providers(smaller, device) if one.name == measured)
    inputs = make_inputs(smaller, device)
    given = inputs.student.nbytes + inputs.teacher.nbytes + inputs.target.nbytes
    return REDUCTION**2 * (given + peak_bytes(forward_and_backward(found, smaller, inputs), device))
