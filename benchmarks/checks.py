"""Performance regression checks, the rule for their limits, and the verdict on a measurement.

A check is a ratio of two providers in one run, never an absolute time. ``limits.yaml`` has the checks, ``RULES`` the
parameters of

    limit = margin * upper quartile of the medians of some runs on an undisturbed machine

A time over its limit is measured again, because disturbances on a shared machine pass: the check fails only if every attempt
is over the limit. On two cores with one or two other processes, the medians of five runs differed by 2 to 15 %, most at 64
samples, and one of 45 time checks needed a second attempt. With a torch backend deliberately made a quarter slower, 8 of the
9 time checks failed; the ninth passed by chance in the third of four attempts, with half as many repetitions. Bytes and
instructions were the same in every run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from benchmarks.cases import Case
from benchmarks.timing import Spread, ratios, spread


class UnavailableError(RuntimeError):
    """Something cannot be measured here; the message says why, and what to install."""


LIMITS = Path(__file__).with_name("limits.yaml")


class Rule(NamedTuple):
    """How a limit is set, and the total number of measurements over the limit before the check fails."""

    runs: int
    margin: float
    attempts: int


_TIME = Rule(runs=5, margin=1.15, attempts=3)
_EXACT = Rule(runs=1, margin=1.05, attempts=1)

RULES = {
    "forward": _TIME,
    "forward and backward": _TIME,
    "host cost": _TIME,
    "peak memory": _EXACT,
    "instructions": _EXACT,
}
"""Rules by measured quantity: time of the loss without and with its gradient, host time of a step with the kernels, and
bytes and instructions of the loss with its gradient."""


@dataclass(frozen=True)
class Check:
    """A ratio and its limit."""

    samples: int
    classes: int
    what: str
    provider: str
    relative_to: str
    limit: float

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown quantity or a limit that is not finite and positive."""
        if self.what not in RULES:
            raise ValueError(f"what must be one of {', '.join(RULES)}, got {self.what!r}")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError(f"limit must be finite and > 0, got {self.limit}")

    @property
    def name(self) -> str:
        """The name for tables: batch, measured quantity, and the two providers."""
        return f"({self.samples}, {self.classes}) {self.what}: {self.provider} / {self.relative_to}"

    @property
    def case(self) -> Case:
        """The batch, for the providers."""
        return Case("check", self.samples, self.classes)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check."""

    check: Check
    ratio: Spread | None = None
    """The ratio of the attempt with the lowest median; None if it could not be measured."""
    attempts: int = 0
    left_out: str = ""
    """Why it could not be measured."""

    @property
    def failed(self) -> bool:
        """Whether the ratio was over the limit in every attempt; a skipped check has not failed."""
        return self.ratio is not None and self.ratio.median > self.check.limit


Values = dict[str, list[float]]
"""Measured values by provider, one for each repetition; repetitions are in the same order for all providers."""


def load(path: Path = LIMITS) -> list[Check]:
    """The checks of a file.

    Raises:
        ValueError: for a check that is incomplete, invalid or duplicated.
    """
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    checks = []
    for entry in entries:
        try:
            checks.append(Check(**entry))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {entry}: {error}") from error
    names = [check.name for check in checks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: duplicate checks: {', '.join(repeated)}")
    return checks


def grouped(checks: Sequence[Check]) -> list[list[Check]]:
    """Groups checks of the same batch and quantity, which one measurement decides; time checks come first.

    Counting allocations changes the heap, and with it any times measured afterwards.
    """
    groups: dict[tuple[int, Case], list[Check]] = {}
    for check in checks:
        groups.setdefault((list(RULES).index(check.what), check.case), []).append(check)
    return [groups[key] for key in sorted(groups)]


def providers_of(checks: Sequence[Check]) -> list[str]:
    """The providers that these checks need, each once."""
    return list(dict.fromkeys(name for check in checks for name in (check.provider, check.relative_to)))


def judge(checks: Sequence[Check], measure: Callable[[], Values]) -> list[Verdict]:
    """The verdicts on one group, which is measured again while a check fails, as often as its rule allows."""
    verdicts = [Verdict(check) for check in checks]
    for attempt in range(1, RULES[checks[0].what].attempts + 1):
        values = measure()
        verdicts = [
            _updated(verdict, attempt, values) if attempt == 1 or verdict.failed else verdict for verdict in verdicts
        ]
        if not any(verdict.failed for verdict in verdicts):
            break
    return verdicts


def limits_by_rule(checks: Sequence[Check], measure: Callable[[], Values]) -> list[Check]:
    """The checks of one group with the limits by their rule on this machine, rounded up to three digits."""
    rule = RULES[checks[0].what]
    runs = [measure() for _ in range(rule.runs)]
    medians = [[ratio_of(check, values).median for values in runs] for check in checks]
    return [
        Check(**{**vars(check), "limit": _rounded_up(rule.margin * spread(found).high)})
        for check, found in zip(checks, medians, strict=True)
    ]


def ratio_of(check: Check, values: Values) -> Spread:
    """The ratio of a check over its repetitions."""
    return spread(ratios(values[check.provider], values[check.relative_to]))


def _updated(verdict: Verdict, attempt: int, values: Values) -> Verdict:
    ratio = ratio_of(verdict.check, values)
    if verdict.ratio is not None and verdict.ratio.median < ratio.median:
        ratio = verdict.ratio
    return Verdict(verdict.check, ratio, attempt)


def _rounded_up(limit: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(limit)) - 2)
    return float(f"{math.ceil(limit / unit - 1e-9) * unit:.3g}")
