"""``make bench-check``: detects slowdowns and memory growth of the torch backend, and slower launches of the kernels.

    python -m benchmarks.regressions            checks the limits of limits.yaml; writes runs/bench/check.json
    python -m benchmarks.regressions --measure  prints the limits by the rule on this machine

Everything runs on one CPU thread, so that limits hold for machines with any number of cores. ``checks.py`` has the rule for
the limits. Exit status: 0 if no check failed, 1 if one did; checks that cannot run here are skipped, with the reason.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import host_cost, instructions
from benchmarks.cases import Case, make_inputs
from benchmarks.checks import (
    RULES,
    Check,
    UnavailableError,
    Values,
    Verdict,
    grouped,
    judge,
    limits_by_rule,
    load,
    providers_of,
)
from benchmarks.machine import describe
from benchmarks.memory import peak_bytes
from benchmarks.providers import forward, forward_and_backward, providers
from benchmarks.timing import Spread, interleaved

OUTPUT = Path("runs/bench/check.json")

SECONDS = 8.0
"""Time for all repetitions of one quantity on one batch."""

LEAST_REPETITIONS, MOST_REPETITIONS = 11, 300
"""Slow steps still get the minimum: the median of fewer repetitions is at the mercy of other processes."""

KINDS = {"forward": forward, "forward and backward": forward_and_backward, "peak memory": forward_and_backward}
"""The step that is timed, or whose memory is measured."""


def main() -> None:
    """Checks all limits, or measures new ones; exits with the status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="print the limits by the rule on this machine")
    arguments = parser.parse_args()
    console = Console(width=max(120, Console().width))
    torch.set_num_threads(1)
    checks = load()
    if arguments.measure:
        print_limits(checks, console)
    else:
        sys.exit(check_all(checks, OUTPUT, console))


def check_all(checks: Sequence[Check], output: Path, console: Console) -> int:
    """Prints and writes the verdicts; returns the exit status."""
    verdicts: list[Verdict] = []
    for group in grouped(checks):
        with console.status(_description(group)):
            verdicts += _verdicts(group)
    console.print(table(verdicts))
    for reason in dict.fromkeys(verdict.left_out for verdict in verdicts if verdict.left_out):
        console.print(f"skipped: {reason}", markup=False)
    failed = [verdict.check.name for verdict in verdicts if verdict.failed]
    for name in failed:
        console.print(f"over its limit: {name}", markup=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": describe("cpu"), "checks": [_as_json(verdict) for verdict in verdicts]}
    output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


def print_limits(checks: Sequence[Check], console: Console) -> None:
    """Prints the lines that ``limits.yaml`` would have if its limits were set on this machine now."""
    for group in grouped(checks):
        with console.status(_description(group)):
            try:
                renewed = limits_by_rule(group, lambda: measure(group))  # noqa: B023
            except UnavailableError as error:
                console.print(f"# skipped: {error}", markup=False)
                continue
        for old, new in zip(group, renewed, strict=True):
            entry = ", ".join(f"{key}: {value}" for key, value in asdict(new).items())
            console.print(f"- {{{entry}}} # was {old.limit:g}", markup=False, highlight=False, soft_wrap=True)


def measure(group: Sequence[Check]) -> Values:
    """One measurement of everything that a group of checks compares.

    Raises:
        UnavailableError: if it cannot be measured here.
    """
    what, case, names = group[0].what, group[0].case, providers_of(group)
    if what == "instructions":
        return instructions.count(case, names)
    if what == "host cost":
        return host_cost.measure_ratio(case)
    return _memory(case, names) if what == "peak memory" else _times(what, case, names)


def table(verdicts: Sequence[Verdict]) -> Table:
    """One row per check."""
    made = Table(title="Performance regressions: ratios, one CPU thread")
    made.add_column("check")
    for heading in ("measured (quartiles)", "limit", "attempts", "ok"):
        made.add_column(heading, justify="right")
    for verdict in verdicts:
        outcome = "skipped" if verdict.left_out else "[red]no[/red]" if verdict.failed else "yes"
        cells = (_cell(verdict.ratio), f"{verdict.check.limit:g}", str(verdict.attempts), outcome)
        made.add_row(escape(verdict.check.name), *cells)
    return made


def _verdicts(group: Sequence[Check]) -> list[Verdict]:
    try:
        return judge(group, lambda: measure(group))
    except UnavailableError as error:
        return [Verdict(check, left_out=str(error)) for check in group]


def _times(what: str, case: Case, names: Sequence[str]) -> Values:
    inputs = make_inputs(case)
    found = {provider.name: provider for provider in providers(case, "cpu")}
    steps = {name: KINDS[what](found[name], case, inputs) for name in names}
    return interleaved(steps, seconds=SECONDS, least=LEAST_REPETITIONS, most=MOST_REPETITIONS)


def _memory(case: Case, names: Sequence[str]) -> Values:
    inputs = make_inputs(case)
    found = {provider.name: provider for provider in providers(case, "cpu")}
    values: Values = {}
    for name in names:
        step = KINDS["peak memory"](found[name], case, inputs)
        step()
        inputs.student.grad = None
        values[name] = [float(peak_bytes(step, "cpu"))]
    return values


def _description(group: Sequence[Check]) -> str:
    attempts = RULES[group[0].what].attempts
    return f"{group[0].what}, {group[0].samples} x {group[0].classes}, up to {attempts} times"


def _cell(ratio: Spread | None) -> str:
    if ratio is None:
        return "-"
    if ratio.low == ratio.high:
        return f"{ratio.median:.3f}"
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _as_json(verdict: Verdict) -> dict[str, object]:
    return {**asdict(verdict.check), "ratio": verdict.ratio and verdict.ratio._asdict(), "attempts": verdict.attempts,
            "failed": verdict.failed, "left_out": verdict.left_out}  # fmt: skip


if __name__ == "__main__":
    main()
