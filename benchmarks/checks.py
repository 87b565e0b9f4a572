"""What is checked for performance regressions, the rule that its limits are set by, and the verdict on what was measured.

A check is a ratio of two providers in one run, never a time. ``limits.yaml`` has the checks, ``RULES`` the numbers of

    limit = margin * upper quartile of the medians of some runs on an undisturbed machine

A time that is over its limit is measured again, because what disturbs it on a shared machine passes: the check fails if it
is over the limit in every attempt. On two cores with one or two other processes the medians of five runs differed by 2 to
15 %, most at 64 samples, and one of 45 checks of times needed a second attempt. A torch backend that
was made a quarter slower on purpose failed 8 of the 9 checks of times, and the ninth was within its limit by chance in the
third of four attempts, with half as many repetitions. Bytes and instructions came out the same each time.
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
    """Something can't be measured here; the message says why, and what to install."""


LIMITS = Path(__file__).with_name("limits.yaml")


class Rule(NamedTuple):
    """How a limit is set, and how often a measurement over the limit is made in all before the check fails."""

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
"""By what is measured: times of the loss alone and with its gradient, the time that the latter costs the host where kernels
compute it, and its bytes and instructions."""


@dataclass(frozen=True)
class Check:
    """A ratio and the most that it may be."""

    samples: int
    classes: int
    what: str
    provider: str
    relative_to: str
    limit: float

    def __post_init__(self) -> None:
        """Raises ValueError for what nobody measures and for a limit that nothing can be over or under."""
        if self.what not in RULES:
            raise ValueError(f"what must be one of {', '.join(RULES)}, got {self.what!r}")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError(f"limit must be finite and > 0, got {self.limit}")

    @property
    def name(self) -> str:
        """For a table: batch, what is measured, and the two providers."""
        return f"({self.samples}, {self.classes}) {self.what}: {self.provider} / {self.relative_to}"

    @property
    def case(self) -> Case:
        """The batch, for the providers."""
        return Case("check", self.samples, self.classes)


@dataclass(frozen=True)
class Verdict:
    """What one check came to."""

    check: Check
    ratio: Spread | None = None
    """Of the attempt with the lowest median; None where it could not be measured."""
    attempts: int = 0
    left_out: str = ""
    """Why it could not be measured."""

    @property
    def failed(self) -> bool:
        """Whether the ratio was over the limit each time; what was left out has not failed."""
        return self.ratio is not None and self.ratio.median > self.check.limit


Values = dict[str, list[float]]
"""What was measured, by provider: one value for each repetition, those of all providers in the same order."""


def load(path: Path = LIMITS) -> list[Check]:
    """The checks of a file.

    Raises:
        ValueError: for a check that is incomplete, wrong, or there twice.
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
        raise ValueError(f"{path}: there twice: {', '.join(repeated)}")
    return checks


def grouped(checks: Sequence[Check]) -> list[list[Check]]:
    """Checks that one measurement decides together: of the same batch and the same thing; those of times first.

    Counting allocations leaves traces in the heap, and times taken after it are others.
    """
    groups: dict[tuple[int, Case], list[Check]] = {}
    for check in checks:
        groups.setdefault((list(RULES).index(check.what), check.case), []).append(check)
    return [groups[key] for key in sorted(groups)]


def providers_of(checks: Sequence[Check]) -> list[str]:
    """Everything that has to be measured for these checks, each once."""
    return list(dict.fromkeys(name for check in checks for name in (check.provider, check.relative_to)))


def judge(checks: Sequence[Check], measure: Callable[[], Values]) -> list[Verdict]:
    """The verdicts on one group, measured again while a check fails, as often as its rule allows."""
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
    """The checks of one group with the limits that their rule gives on this machine, rounded up to three digits."""
    rule = RULES[checks[0].what]
    runs = [measure() for _ in range(rule.runs)]
    medians = [[ratio_of(check, values).median for values in runs] for check in checks]
    return [
        Check(**{**vars(check), "limit": _rounded_up(rule.margin * spread(found).high)})
        for check, found in zip(checks, medians, strict=True)
    ]


def ratio_of(check: Check, values: Values) -> Spread:
    """The ratio of a check, repetition by repetition."""
    return spread(ratios(values[check.provider], values[check.relative_to]))


def _updated(verdict: Verdict, attempt: int, values: Values) -> Verdict:
    ratio = ratio_of(verdict.check, values)
    if verdict.ratio is not None and verdict.ratio.median < ratio.median:
        ratio = verdict.ratio
    return Verdict(verdict.check, ratio, attempt)


def _rounded_up(limit: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(limit)) - 2)
    return float(f"{math.ceil(limit / unit - 1e-9) * unit:.3g}")
