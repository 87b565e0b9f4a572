"""Tuning: the settings of the trials, the choice between them, and notes on values near the ends of ranges."""

import math
import statistics

import pytest

from training.compare.comparison import parse_variant
from training.compare.tuning import best_trial, range_ends, trials
from training.methods import METHODS, default_settings

PINNED = [
    {},
    {"ce_weight": 0.1928, "kd_weight": 12.84},
    {"ce_weight": 0.01928, "kd_weight": 59.6},
    {"ce_weight": 0.6097, "kd_weight": 2.766},
]
"""Trials that a comparison must find again if it was begun on another machine or with an earlier version."""


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_first_trial_has_the_literature_settings_and_the_others_are_in_their_ranges(method: str) -> None:
    first, *others = trials(parse_variant(method), 20)
    assert first == {}
    assert len(others) == 19
    for drawn in others:
        assert drawn.keys() == METHODS[method].search.keys()
        for name, (low, high) in METHODS[method].search.items():
            assert low <= drawn[name] <= high


def test_trials_spread_over_a_range_evenly_on_the_logarithmic_scale() -> None:
    for name, (low, high) in METHODS["bickd"].search.items():
        drawn = [trial[name] for trial in trials(parse_variant("bickd"), 65)[1:]]
        positions = [math.log(value / low) / math.log(high / low) for value in drawn]
        quarters = [sum(number <= 4 * position < number + 1 for position in positions) for number in range(4)]
        # The intervals of base 2 make up quarters; those of bases 3 and 5 cut across, by one of the 64 points at most, which
        # moves the mean by at most its share.
        assert all(abs(count - 16) <= 1 for count in quarters)
        assert statistics.mean(positions) == pytest.approx(0.5, abs=1 / 64)


def test_more_trials_begin_with_the_same_ones() -> None:
    variant = parse_variant("bickd")
    assert trials(variant, 12)[:5] == trials(variant, 5)


def test_trials_are_the_same_on_every_machine_and_in_every_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["kd"], "search", {"ce_weight": (0.01, 1.0), "kd_weight": (1.0, 100.0)})
    assert trials(parse_variant("kd"), 4) == PINNED


def test_fixed_settings_are_not_drawn_and_do_not_change_the_draws_of_the_others() -> None:
    fixed = trials(parse_variant("bickd:kd_weight=0,class_wise_weight=0"), 6)
    free = trials(parse_variant("bickd"), 6)
    assert fixed == [{name: value for name, value in trial.items() if name != "kd_weight"} for trial in free]
    assert all("kd_weight" in trial for trial in free[1:])


def test_ranges_follow_the_published_weights_of_logit_standardization() -> None:
    plain, standardized = parse_variant("dkd"), parse_variant("dkd:logit_standardization=true")
    published = METHODS["dkd"].standardized
    assert published is not None
    for name, (low, high) in plain.search.items():
        factor = published.get(name, default_settings("dkd")[name]) / default_settings("dkd")[name]
        assert standardized.search[name] == pytest.approx((low * factor, high * factor))
    assert standardized.search["dkd_weight"][1] == pytest.approx(90.0)
    for variant in (plain, standardized):
        assert range_ends(variant, variant.all_settings()) == []
    pairs = zip(trials(plain, 6)[1:], trials(standardized, 6)[1:], strict=True)
    assert all(large["dkd_weight"] == pytest.approx(9 * small["dkd_weight"], rel=1e-3) for small, large in pairs)


def test_with_every_setting_fixed_only_the_first_trial_is_left() -> None:
    assert trials(parse_variant("kd:ce_weight=1,kd_weight=1"), 6) == [{}]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [([50.0, 60.0, 55.0], 1), ([60.0, 60.0], 0), ([None, 10.0], 1), ([None, 0.0, None], 1), ([None, None], None)],
)
def test_the_highest_validation_accuracy_wins_then_the_first_and_a_diverged_trial_loses(
    accuracies: list[float | None], expected: int | None
) -> None:
    assert best_trial(accuracies) == expected


def test_values_near_the_ends_of_a_range_are_noted_on_the_logarithmic_scale() -> None:
    variant = parse_variant("kd")
    low, high = METHODS["kd"].search["kd_weight"]

    def at(position: float) -> list[str]:
        return range_ends(variant, {"ce_weight": 0.3, "kd_weight": low * (high / low) ** position})

    assert at(0.06) == at(0.5) == at(0.94) == []
    assert ["lower" in note for note in at(0.04)] == [True]
    assert ["upper" in note for note in at(0.96)] == [True]
    assert at(0.96)[0].startswith("kd_weight ")
    assert f"{low:g} to {high:g}" in at(1.2)[0]
    assert ["lower" in note for note in range_ends(variant, {"ce_weight": 0.3, "kd_weight": 0.0})] == [True]
    assert range_ends(parse_variant("kd:kd_weight=0"), {"ce_weight": 0.3, "kd_weight": 0}) == []
