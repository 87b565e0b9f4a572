"""Running sums of an epoch's loss terms, kept on the device, and a check that all of them are finite."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.loop.distributed import gather


class NonFinite(NamedTuple):
    """The first step with a non-finite value, and all values of that step by name."""

    step: int
    values: dict[str, float]


class Means(NamedTuple):
    """The means of the sums: ``loss`` and ``terms`` are means over the samples, where each micro-batch contributes its own
    mean; ``accuracy`` is the student's in percent; ``samples`` were trained on and ``skipped`` left out."""

    loss: float
    terms: dict[str, float]
    accuracy: float
    samples: int
    skipped: int


def means(totals: dict[str, float]) -> Means:
    """The means of a tally's totals, which hold the values ``loss``, ``right`` and the terms, weighted by the number of
    samples of each micro-batch, and the counts ``samples`` and ``skipped``."""
    terms = dict(totals)
    samples, skipped = (terms.pop(name) for name in ("samples", "skipped"))
    terms = {name: total / samples for name, total in terms.items()}
    return Means(terms.pop("loss"), terms, 100 * terms.pop("right"), round(samples), round(skipped))


class Tally:
    """Sums over the micro-batches of an epoch: of values on the device, and of counts on the host.

    Nothing waits for the device until ``first_non_finite`` or ``totals`` is called. Every micro-batch has the same names; a
    process may have no micro-batch at all.

    Args:
        state: to continue from, as returned by ``state``.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        state = state or {"names": [], "sums": torch.zeros(0), "counts": {}}
        self.names: list[str] = state["names"]
        self.sums: Tensor = state["sums"]
        self.counts: dict[str, int] = dict(state["counts"])
        self.pending: list[tuple[int, Tensor]] = []

    def add(self, step: int, values: dict[str, Tensor], *, weight: int = 1) -> None:
        """Adds ``weight`` times the values of a micro-batch of ``step``; they are checked later."""
        added = torch.stack([value.detach().double() for value in values.values()])
        self.pending.append((step, added))
        weighted = weight * added
        self.sums = self.sums.to(added.device) + weighted if self.names else weighted
        self.names = list(values)

    def count(self, **counts: int) -> None:
        """Adds to the counts, by name."""
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def first_non_finite(self) -> NonFinite | None:
        """The first step since the last call that has a non-finite value."""
        pending, self.pending = self.pending, []
        for step, added in pending:
            values = dict(zip(self.names, added.tolist(), strict=True))
            if not all(map(math.isfinite, values.values())):
                return NonFinite(step, values)
        return None

    def totals(self) -> dict[str, float]:
        """The sums so far, of this process."""
        return {**dict(zip(self.names, self.sums.tolist(), strict=True)), **self.counts}

    def totals_over_processes(self) -> dict[str, float]:
        """The sums so far, over all processes; every process must call it."""
        summed: dict[str, float] = {}
        for totals in gather(self.totals()):
            for name, value in totals.items():
                summed[name] = summed.get(name, 0) + value
        return summed

    def state(self) -> dict[str, Any]:
        """The state from which another tally continues, on the CPU."""
        return {"names": self.names, "sums": self.sums.cpu(), "counts": dict(self.counts)}
