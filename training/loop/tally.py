"""Running sums of an epoch's loss terms, kept on the device, and the check that every one of them is finite."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.loop.distributed import gather


class NonFinite(NamedTuple):
    """The first step that has a value which is not finite, and all of its values by name."""

    step: int
    values: dict[str, float]


class Means(NamedTuple):
    """What the sums of a training come to: ``loss`` and ``terms`` are means over the samples, as each part has them for its
    own, ``accuracy`` is the student's in percent, ``samples`` were trained on and ``skipped`` left out."""

    loss: float
    terms: dict[str, float]
    accuracy: float
    samples: int
    skipped: int


def means(totals: dict[str, float]) -> Means:
    """The means of a tally's totals: of the values ``loss``, ``right`` and the terms, weighted by the samples of their
    parts, and the counts ``samples`` and ``skipped``."""
    terms = dict(totals)
    samples, skipped = (terms.pop(name) for name in ("samples", "skipped"))
    terms = {name: total / samples for name, total in terms.items()}
    return Means(terms.pop("loss"), terms, 100 * terms.pop("right"), round(samples), round(skipped))


class Tally:
    """Sums over the parts of an epoch's steps, of values that are on the device and of counts that are not.

    Nothing waits for the device until ``first_non_finite`` or ``totals`` is called. Every part has the same names; a process
    may have no part at all.

    Args:
        state: to go on from, as ``state`` gives it.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        state = state or {"names": [], "sums": torch.zeros(0), "counts": {}}
        self.names: list[str] = state["names"]
        self.sums: Tensor = state["sums"]
        self.counts: dict[str, int] = dict(state["counts"])
        self.pending: list[tuple[int, Tensor]] = []

    def add(self, step: int, values: dict[str, Tensor], *, weight: int = 1) -> None:
        """Adds ``weight`` times the values of a part of ``step``, which are checked."""
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
        """The first step since the last call that has a value which is not finite."""
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
        """The sums so far, over all processes; every one of them must call it."""
        summed: dict[str, float] = {}
        for totals in gather(self.totals()):
            for name, value in totals.items():
                summed[name] = summed.get(name, 0) + value
        return summed

    def state(self) -> dict[str, Any]:
        """What another tally goes on from, on the CPU."""
        return {"names": self.names, "sums": self.sums.cpu(), "counts": dict(self.counts)}
