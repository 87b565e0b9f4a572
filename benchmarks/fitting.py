"""Whether a call fits into memory, judged from a smaller one: on a CPU nobody can catch the end of memory.

Every array of a loss is ``B x C``, ``B x B`` or ``C x C``: with both sizes divided by s its bytes are divided by s^2.
"""

from functools import cache

from benchmarks.cases import Case, make_inputs
from benchmarks.machine import available_bytes
from benchmarks.memory import peak_bytes
from benchmarks.providers import forward_and_backward, providers

REDUCTION = 8
"""Both sizes of the smaller call are divided by this."""

SMALLEST_JUDGED = 2**31
"""Bytes of the largest matrix, times 16, below which nobody is in doubt."""

SHARE = 0.9
"""The part of the available memory that a call may take."""


def shortage(provider: str, case: Case, device: str) -> str:
    """Why this provider's forward and backward does not fit, or an empty string."""
    if 16 * 4 * max(case.samples, case.classes) ** 2 < SMALLEST_JUDGED:
        return ""
    needed, available = expected_bytes(provider, case, device), available_bytes(device)
    if needed <= SHARE * available:
        return ""
    return f"needs about {needed / 1e9:.1f} GB of {available / 1e9:.1f} GB that are available"


@cache
def expected_bytes(provider: str, case: Case, device: str) -> int:
    """Bytes at the peak by the smaller call, inputs included.

    The compiled definition is taken to need what the definition needs, which is more: it would take longer to compile than
    to run. What has panels of a fixed size is overestimated.
    """
    measured = "reference" if provider == "compiled" else provider
    smaller = case._replace(samples=-(-case.samples // REDUCTION), classes=-(-case.classes // REDUCTION))
    found = next(one for one in providers(smaller, device) if one.name == measured)
    inputs = make_inputs(smaller, device)
    given = inputs.student.nbytes + inputs.teacher.nbytes + inputs.target.nbytes
    return REDUCTION**2 * (given + peak_bytes(forward_and_backward(found, smaller, inputs), device))
