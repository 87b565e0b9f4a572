"""Performance checks: the verdicts, the rule that sets the limits, the file of limits, and the command."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import instructions, regressions
from benchmarks.checks import RULES, Check, Values, grouped, judge, limits_by_rule, load, providers_of
from benchmarks.timing import Spread

TIME = Check(6, 5, "forward and backward", "torch", "reference", 0.5)
MEMORY = replace(TIME, what="peak memory")
INSTRUCTIONS = replace(TIME, what="instructions")


def times(*ratios_: float) -> Values:
    """Repetitions with these ratios, in which the reference takes 2."""
    return {"torch": [2 * ratio for ratio in ratios_], "reference": [2.0] * len(ratios_)}


def in_turn(*measurements: Values) -> Callable[[], Values]:
    """Gives these measurements one after the other, and fails after the last."""
    return iter(measurements).__next__


def test_the_median_ratio_of_repetitions_is_compared_with_the_limit() -> None:
    drifting = {"torch": [1.0, 20.0, 300.0], "reference": [2.5, 40.0, 500.0]}
    (verdict,) = judge([TIME], in_turn(drifting))
    assert not verdict.failed
    assert verdict.ratio == pytest.approx(Spread(0.45, 0.5, 0.55))
    (verdict,) = judge([replace(MEMORY, limit=0.499)], in_turn(drifting))
    assert verdict.failed


def test_a_time_over_its_limit_is_measured_again_until_it_is_within() -> None:
    (verdict,) = judge([TIME], in_turn(times(0.9), times(0.7), times(0.4)))
    assert (verdict.failed, verdict.attempts, verdict.ratio) == (False, 3, Spread(0.4, 0.4, 0.4))


def test_a_time_within_its_limit_is_measured_once() -> None:
    (verdict,) = judge([TIME], in_turn(times(0.4)))
    assert (verdict.failed, verdict.attempts) == (False, 1)


def test_a_time_over_its_limit_in_every_attempt_fails_with_the_best_of_them() -> None:
    attempts = RULES[TIME.what].attempts
    assert attempts >= 3
    worse = [times(0.9 + index) for index in range(attempts - 2)]
    (verdict,) = judge([TIME], in_turn(times(0.8), times(0.6), *worse))
    assert (verdict.failed, verdict.attempts, verdict.ratio) == (True, attempts, Spread(0.6, 0.6, 0.6))


@pytest.mark.parametrize("check", [MEMORY, INSTRUCTIONS])
def test_memory_and_instructions_are_measured_once(check: Check) -> None:
    (verdict,) = judge([check], in_turn(times(0.6)))
    assert (verdict.failed, verdict.attempts) == (True, 1)


def test_a_check_that_passed_is_not_judged_by_the_attempts_for_another() -> None:
    products = replace(TIME, relative_to="products", limit=1.5)
    first = {"torch": [1.0], "reference": [2.0], "products": [0.1]}
    second = {"torch": [1.0], "reference": [0.1], "products": [1.0]}
    verdicts = judge([TIME, products], in_turn(first, second))
    assert [(verdict.failed, verdict.attempts) for verdict in verdicts] == [(False, 1), (False, 2)]


def test_the_limit_is_the_upper_quartile_of_the_runs_times_the_margin() -> None:
    runs = RULES[TIME.what].runs
    assert runs == 5
    (renewed,) = limits_by_rule([TIME], in_turn(*(times(ratio) for ratio in (0.5, 0.3, 0.4, 0.2, 9.0))))
    assert renewed == replace(TIME, limit=0.575)
    (renewed,) = limits_by_rule([MEMORY], in_turn(times(2.0)))
    assert renewed == replace(MEMORY, limit=2.1)


def test_a_limit_is_rounded_up_to_three_digits() -> None:
    (renewed,) = limits_by_rule([MEMORY], in_turn(times(0.12345 / RULES["peak memory"].margin)))
    assert renewed.limit == 0.124


@pytest.mark.parametrize("what", RULES)
def test_a_slowdown_of_a_quarter_is_over_the_limit_that_the_rule_sets(what: str) -> None:
    (renewed,) = limits_by_rule([replace(TIME, what=what)], lambda: times(0.4))
    # Even if it is measured 5 % too low.
    (verdict,) = judge([renewed], lambda: times(0.4 * 1.25 * 0.95))
    assert verdict.failed


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
def test_a_time_that_is_a_tenth_too_high_is_no_regression(what: str) -> None:
    (renewed,) = limits_by_rule([replace(TIME, what=what)], lambda: times(0.4))
    (verdict,) = judge([renewed], lambda: times(0.44))
    assert not verdict.failed


def test_one_measurement_decides_all_checks_of_a_batch_and_a_quantity_and_times_come_first() -> None:
    products, larger = replace(TIME, relative_to="products"), replace(TIME, samples=7)
    groups = grouped([INSTRUCTIONS, MEMORY, larger, TIME, products])
    assert groups == [[TIME, products], [larger], [MEMORY], [INSTRUCTIONS]]
    assert providers_of(groups[0]) == ["torch", "reference", "products"]


def test_the_limits_of_the_repository_are_for_quantities_and_providers_that_can_be_measured() -> None:
    found = load()
    assert {check.what for check in found} == set(RULES)
    assert {name for check in found for name in (check.provider, check.relative_to)} == {
        "torch",
        "triton",
        "reference",
        "products",
    }
    counted = [check for check in found if check.what == "instructions"]
    assert {name for check in counted for name in (check.provider, check.relative_to)} <= set(instructions.BACKENDS)
    on_the_host = [(check.provider, check.relative_to) for check in found if check.what == "host cost"]
    assert on_the_host == [("triton", "reference")]
    for batch in ((64, 100), (256, 1000), (1024, 1000)):
        for what in ("forward and backward", "peak memory"):
            names = {check.relative_to for check in found if (*check.case[1:3], check.what) == (*batch, what)}
            assert names == {"reference", "products"}


ENTRY = "{samples: 6, classes: 5, what: forward, provider: torch, relative_to: reference, limit: 0.5}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ENTRY.replace("forward", "speed"), "what must be one of forward, .*'speed'"),
        (ENTRY.replace("0.5", "0.0"), "limit must be finite and > 0, got 0.0"),
        (ENTRY.replace("0.5", ".nan"), "limit must be finite and > 0, got nan"),
        (ENTRY.replace(", limit: 0.5", ""), "limit"),
        (ENTRY.replace("limit", "limits"), "limits"),
        (f"{ENTRY}\n- {ENTRY}", "duplicate checks: \\(6, 5\\) forward: torch / reference"),
    ],
)
def test_a_wrong_entry_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(f"- {ENTRY}\n")
    assert load(path) == [replace(TIME, what="forward")]
    path.write_text(f"- {content}\n")
    with pytest.raises(ValueError, match=message):
        load(path)


def test_the_printed_limits_are_entries_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(regressions, "measure", lambda group: times(0.4))
    console = Console(width=60)
    with console.capture() as capture:
        regressions.print_limits([TIME, MEMORY], console)
    path = tmp_path / "limits.yaml"
    path.write_text(capture.get())
    assert load(path) == [replace(TIME, limit=0.46), replace(MEMORY, limit=0.42)]
    assert "was 0.5" in capture.get()


def checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: dict[str, Values]) -> tuple[int, str, list[dict]]:
    """Exit status, text and written checks with the values in ``measured``; what is not in it cannot be measured."""

    def measure(group: list[Check]) -> Values:
        if group[0].what not in measured:
            raise instructions.UnavailableError("valgrind not found; install [it]")
        return measured[group[0].what]

    monkeypatch.setattr(regressions, "measure", measure)
    console = Console(width=150)
    output = tmp_path / "bench" / "check.json"
    with console.capture() as capture:
        status = regressions.check_all([TIME, MEMORY, INSTRUCTIONS], output, console)
    return status, capture.get(), json.loads(output.read_text())["checks"]


def test_within_all_limits_the_exit_status_is_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, text, content = checked(monkeypatch, tmp_path, dict.fromkeys(RULES, times(0.4)))
    assert status == 0
    assert "over its limit" not in text
    assert [entry["failed"] for entry in content] == [False] * 3
    assert content[0] == {
        "samples": 6, "classes": 5, "what": "forward and backward", "provider": "torch", "relative_to": "reference",
        "limit": 0.5, "ratio": {"low": 0.4, "median": 0.4, "high": 0.4}, "attempts": 1, "failed": False, "left_out": "",
    }  # fmt: skip


@pytest.mark.parametrize("what", ["forward and backward", "peak memory", "instructions"])
def test_over_a_limit_the_exit_status_is_1_and_the_check_is_named(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, text, content = checked(monkeypatch, tmp_path, {**dict.fromkeys(RULES, times(0.4)), what: times(0.6)})
    assert status == 1
    assert f"over its limit: (6, 5) {what}: torch / reference\n" in text
    assert text.count("over its limit") == 1
    assert [entry["what"] for entry in content if entry["failed"]] == [what]


def test_a_check_that_cannot_be_measured_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    within = {"forward and backward": times(0.4), "peak memory": times(0.4)}
    status, text, content = checked(monkeypatch, tmp_path, within)
    assert status == 0
    assert "skipped: valgrind not found; install [it]\n" in text
    assert [entry["left_out"] for entry in content] == ["", "", "valgrind not found; install [it]"]
    assert checked(monkeypatch, tmp_path, {**within, "peak memory": times(0.6)})[0] == 1


def test_times_and_memory_are_those_of_the_named_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regressions, "SECONDS", 0.0)
    monkeypatch.setattr(regressions, "LEAST_REPETITIONS", 2)
    products = replace(TIME, relative_to="products")
    for what in ("forward", "forward and backward"):
        values = regressions.measure([replace(TIME, what=what), replace(products, what=what)])
        assert list(values) == ["torch", "reference", "products"]
        assert all(seconds > 0 for measured in values.values() for seconds in measured)
    wide = replace(products, what="peak memory", samples=64, classes=300)
    values = regressions.measure([wide, replace(wide, relative_to="reference")])
    # Both similarity matrices and the larger one of the two products with them.
    assert values["products"] == [4.0 * (64 * 64 + 300 * 300 + 64 * 300)]
    assert values["products"] < values["torch"] < values["reference"]
    assert regressions.measure([wide])["torch"] == values["torch"]


def test_the_command_checks_the_limits_on_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    threads: list[int] = []

    def measure(group: list[Check]) -> Values:
        threads.append(torch.get_num_threads())
        return times(0.6)

    monkeypatch.setattr(regressions, "load", lambda: [TIME])
    monkeypatch.setattr(regressions, "measure", measure)
    monkeypatch.setattr(regressions, "OUTPUT", tmp_path / "check.json")
    monkeypatch.setattr(regressions.sys, "argv", ["regressions"])
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with pytest.raises(SystemExit) as exit_:
            regressions.main()
    finally:
        torch.set_num_threads(before)
    assert exit_.value.code == 1
    assert threads == [1] * RULES[TIME.what].attempts
