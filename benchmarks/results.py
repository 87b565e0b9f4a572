"""The measurements of one provider on one case; ``runs/bench/results.json`` consists of these."""

from dataclasses import dataclass

from benchmarks.cases import Case
from benchmarks.timing import Spread


@dataclass(frozen=True)
class Measurement:
    """One provider on one case; fields that were not measured are None, and ``skipped`` says why."""

    case: Case
    provider: str
    forward: Spread | None = None
    """Seconds of the loss without a gradient."""
    forward_and_backward: Spread | None = None
    """Seconds of the loss and its gradient."""
    to_reference: Spread | None = None
    """Ratios of ``forward_and_backward`` to that of the provider ``reference``, over the repetitions."""
    to_products: Spread | None = None
    """Likewise, to the matrix products alone; None for the simpler losses, which have none."""
    peak_bytes: int | None = None
    """Peak memory of forward and backward without the inputs; includes the gradient of the student's logits."""
    skipped: str = ""
