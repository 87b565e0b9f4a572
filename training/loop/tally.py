"""Running means of an epoch's loss terms, kept on the device, and the check that every one of them is finite."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from training.loop.distributed import sum_over


class NonFinite(NamedTuple):
    """The first step whose loss was not finite, and all of its values by name."""

    step: int
    values: dict[str, float]


class Tally:
    """Sums over the parts of an epoch's steps.

    Nothing waits for the device until ``first_non_finite`` or ``means`` is called.
    """

    def __init__(self, sums: dict[str, Tensor] | None = None) -> None:
        self.sums = dict(sums or {})
        self.pending: list[tuple[int, tuple[str, ...], Tensor]] = []

    def add(self, step: int, values: dict[str, Tensor], counts: dict[str, Tensor | int]) -> None:
        """Adds the values of a part, which are checked and averaged, and counts, which are summed."""
        stacked = torch.stack([value.detach().double() for value in values.values()])
        self.pending.append((step, tuple(values), stacked))
        for name, value in {**dict(zip(values, stacked, strict=True)), "parts": 1, **counts}.items():
            value = torch.as_tensor(value, dtype=torch.float64, device=stacked.device)
            self.sums[name] = self.sums[name].to(value.device) + value if name in self.sums else value

    def first_non_finite(self) -> NonFinite | None:
        """The first step since the last call that has a value which is not finite."""
        pending, self.pending = self.pending, []
        for step, names, stacked in pending:
            values = dict(zip(names, stacked.tolist(), strict=True))
            if not all(map(math.isfinite, values.values())):
                return NonFinite(step, values)
        return None

    def totals(self) -> dict[str, float]:
        """The sums so far, of this process."""
        return {name: value.item() for name, value in self.sums.items()}

    def totals_over_processes(self) -> dict[str, float]:
        """The sums so far, over all processes; every one of them must call it."""
        summed = sum_over(torch.stack(list(self.sums.values())))
        return dict(zip(self.sums, summed.tolist(), strict=True))
