"""What is known of one provider on one case once it was measured; ``runs/bench/results.json`` is made of these."""

from dataclasses import dataclass

from benchmarks.cases import Case
from benchmarks.timing import Spread


@dataclass(frozen=True)
class Measurement:
    """One provider on one case; what was not measured is None, and ``skipped`` says why."""

    case: Case
    provider: str
    forward: Spread | None = None
    """Seconds of the loss without a gradient."""
    forward_and_backward: Spread | None = None
    """Seconds of the loss and its gradient."""
    to_reference: Spread | None = None
    """Ratios of ``forward_and_backward`` to that of the provider ``reference``, repetition by repetition."""
    to_products: Spread | None = None
    """Likewise to the products alone; None for the simpler losses, which have none."""
    peak_bytes: int | None = None
    """Memory beyond the inputs at the peak of forward and backward; the gradient by the student's logits is part of it."""
    skipped: str = ""
