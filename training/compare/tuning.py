"""Tuning: the settings of a variant's trials, the choice among them, and whether the choice lies at the end of a range.

value = low * (high / low)^u,   u in [0, 1): a point of a scrambled Halton sequence
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from scipy.stats import qmc

from training.compare.comparison import Variant
from training.methods import METHODS

END = 0.05
"""Share of a range, on the logarithmic scale, that counts as either end."""


def trials(variant: Variant, count: int) -> list[dict[str, float]]:
    """The settings that each of ``count`` trials draws, in addition to the variant's own.

    Trial 0 draws none: it uses the literature's. The others depend only on the method's name and ranges: every call returns
    the same ones, a larger ``count`` extends them, and variants of one method share points.
    """
    searched, ranges = list(METHODS[variant.method].search), variant.search
    if not ranges:
        return [{}]
    seed = int.from_bytes(hashlib.sha256(variant.method.encode()).digest()[:8], "big")
    points = qmc.Halton(len(searched), seed=seed).random(count - 1)
    drawn = [dict(zip(searched, point, strict=True)) for point in points]
    return [{}] + [{name: _at(position[name], *ends) for name, ends in ranges.items()} for position in drawn]


def best_trial(accuracies: Sequence[float | None]) -> int | None:
    """The trial with the highest validation accuracy, the first one in a tie; None marks a trial that diverged.

    Returns:
        Its number, or None if all diverged.
    """
    finished = [number for number, accuracy in enumerate(accuracies) if accuracy is not None]
    return max(finished, key=lambda number: accuracies[number] or 0.0, default=None)


def range_ends(variant: Variant, settings: dict[str, Any]) -> list[str]:
    """A note for each searched setting whose value in ``settings`` lies at the end of its range or outside it."""
    notes = []
    for name, (low, high) in variant.search.items():
        value = settings[name]
        position = math.log(value / low) / math.log(high / low) if value > 0 else -math.inf
        if not END <= position <= 1 - END:
            end = "lower" if position < END else "upper"
            notes.append(f"{name} {value:g} is at the {end} end of its range, {low:g} to {high:g}")
    return notes


def _at(u: float, low: float, high: float) -> float:
    # Four digits are easy to retype, and do not depend on the last bits of a power.
    return float(f"{low * (high / low) ** u:.4g}")
