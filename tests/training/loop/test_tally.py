"""Sums of an epoch and the check that they are finite."""

import math

import pytest
import torch

from training.loop.tally import Tally, means


def values(loss: float, ce: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "ce": torch.tensor(ce)}


def test_values_and_counts_are_summed() -> None:
    tally = Tally()
    tally.add(1, values(1.0, 2.0), weight=3)
    tally.count(samples=3, skipped=0)
    tally.add(2, values(3.0, 5.0))
    tally.count(samples=4, skipped=1)
    assert tally.totals() == {"loss": 6.0, "ce": 11.0, "samples": 7, "skipped": 1}
    assert tally.totals_over_processes() == tally.totals()


def test_a_tally_continues_from_saved_sums() -> None:
    whole, first = Tally(), Tally()
    for step in range(5):
        whole.add(step, values(0.1 * step, 0.3), weight=2)
        whole.count(samples=2)
        if step == 2:
            first = Tally(whole.state())
        if step > 2:
            first.add(step, values(0.1 * step, 0.3), weight=2)
            first.count(samples=2)
    assert first.totals() == whole.totals()


def test_means_are_over_the_samples_with_each_part_weighted_by_its_own() -> None:
    tally = Tally()
    for loss, right, samples in ((1.0, 1.0, 1), (2.0, 0.5, 4), (7.0, 0.0, 3)):
        tally.add(1, {"right": torch.tensor(right), **values(loss, -loss)}, weight=samples)
        tally.count(samples=samples, skipped=1)
    assert means(tally.totals()) == (3.75, {"ce": -3.75}, 37.5, 8, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_step_that_is_not_finite_is_found_once(bad: float) -> None:
    tally = Tally()
    tally.add(1, values(1.0, 2.0))
    tally.add(2, values(bad, bad))
    tally.add(3, values(bad, 1.0))
    found = tally.first_non_finite()
    assert found is not None
    assert found.step == 2
    assert str(found.values["ce"]) == str(bad)
    assert tally.first_non_finite() is None


def test_a_term_that_is_not_finite_is_found_under_a_finite_loss() -> None:
    tally = Tally()
    tally.add(7, values(1.0, math.nan))
    assert tally.first_non_finite() == (7, {"loss": 1.0, "ce": pytest.approx(math.nan, nan_ok=True)})
