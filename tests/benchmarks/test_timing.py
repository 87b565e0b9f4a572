"""Interleaved timing: the order and number of the calls, and the statistics of their times."""

import time

import pytest

from benchmarks import timing
from benchmarks.timing import Spread, interleaved, ratios, spread


class Steps:
    """Steps that take given times on a fake clock, and record the order of their calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.now, self.calls = 0.0, ""
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        self.by_name = {name: self._step(name, taken) for name, taken in seconds.items()}

    def _step(self, name: str, taken: float) -> timing.Step:
        def step() -> None:
            self.now += taken
            self.calls += name

        return step


def test_steps_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, a=1.0, b=2.0)
    times = interleaved(steps.by_name, seconds=0.0, least=3)
    assert steps.calls == "ab" + 3 * "ab"
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_fast_step_is_called_several_times_for_one_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, a=1.0, b=0.002)
    times = interleaved(steps.by_name, seconds=0.0, least=2)
    # The first call is a warm-up, and one more is needed to know that five fill a repetition.
    assert steps.calls == "ab" + "a" + "b" + 5 * "b" + "a" + 5 * "b"
    assert times["a"] == pytest.approx([1.0] * 2)
    assert times["b"] == pytest.approx([0.002] * 2)


@pytest.mark.parametrize(("seconds", "most", "expected"), [(0.0, 100, 3), (10.0, 100, 5), (10.0, 4, 4)])
def test_repetitions_fill_the_time_within_their_bounds(
    seconds: float, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch, a=2.5)
    assert len(interleaved(steps.by_name, seconds=seconds, least=3, most=most)["a"]) == expected


def test_times_are_those_of_a_real_clock() -> None:
    (seconds,) = interleaved({"sleep": lambda: time.sleep(0.02)}, seconds=0.0, least=1)["sleep"]
    assert 0.02 <= seconds < 1.0


def test_a_spread_is_the_median_between_the_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratios_are_those_of_the_same_repetition() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])
