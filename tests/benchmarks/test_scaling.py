"""Fitted exponents: exact power laws are found, small sizes are left out, and the error is stated."""

import itertools
import math
import random

import pytest
from rich.console import Console

from benchmarks import scaling
from benchmarks.cases import CLASS_SERIES, SAMPLE_SERIES, Case
from benchmarks.results import Measurement
from benchmarks.scaling import Exponent, fit
from benchmarks.timing import Spread


def measured(case: Case, provider: str, seconds: float | None, bytes_: int | None) -> Measurement:
    spread = None if seconds is None else Spread(0.9 * seconds, seconds, 1.1 * seconds)
    return Measurement(case, provider, forward_and_backward=spread, peak_bytes=bytes_)


def by_kind(exponents: list[Exponent]) -> dict[tuple[str, str], Exponent]:
    return {(exponent.quantity, exponent.against): exponent for exponent in exponents}


def test_exact_power_laws_are_found() -> None:
    series = [measured(case, "a", 1e-9 * case.classes**1.5, case.classes**2) for case in CLASS_SERIES]
    series += [measured(case, "a", 1e-9 * case.samples**0.5, case.samples**3) for case in SAMPLE_SERIES]
    found = by_kind(fit(series))
    expected = {("time", "C"): 1.5, ("memory", "C"): 2.0, ("time", "B"): 0.5, ("memory", "B"): 3.0}
    assert {kind: exponent.exponent for kind, exponent in found.items()} == pytest.approx(expected, abs=1e-12)
    assert all(exponent.error < 1e-6 for exponent in found.values())


def test_sizes_at_which_a_constant_cost_dominates_are_left_out() -> None:
    def with_cost(seconds: float) -> list[Measurement]:
        small, large = CLASS_SERIES[:2], CLASS_SERIES[2:]
        law = [measured(case, "a", 1e-9 * case.classes**2, None) for case in large]
        return [*(measured(case, "a", seconds, None) for case in small), *law]

    (exponent,) = fit(with_cost(1e-3))
    assert (exponent.smallest, exponent.largest) == (500, 4000)
    assert exponent.exponent == pytest.approx(2.0, abs=1e-12)
    assert fit(with_cost(1.0)) == [exponent]


def test_a_smaller_constant_cost_lowers_the_exponent_and_shows_in_its_error() -> None:
    (exponent,) = fit([measured(case, "a", 1e-3 + 1e-9 * case.classes**2, None) for case in CLASS_SERIES])
    # A least-squares line through four equally spaced points weights the steps between 1.25, 2, 5 and 17 by 3, 4 and 3.
    steps = [math.log2(after / before) for before, after in itertools.pairwise((1.25, 2.0, 5.0, 17.0))]
    assert exponent.exponent == pytest.approx((3 * steps[0] + 4 * steps[1] + 3 * steps[2]) / 10)
    assert exponent.error > 0.1


def test_the_true_exponent_is_within_its_error_under_noise() -> None:
    generator = random.Random(0)
    inside = 0
    for _ in range(200):
        noisy = [measured(case, "a", case.classes**1.7 * generator.lognormvariate(0, 0.05), None) for case in CLASS_SERIES]
        (exponent,) = fit(noisy)
        inside += abs(exponent.exponent - 1.7) <= 4.303 * exponent.error
    # 4.303 standard errors are 95 % of Student's distribution with the two degrees of freedom that four points leave.
    assert 0.9 <= inside / 200 <= 0.99


def test_providers_are_fitted_separately_and_skipped_sizes_are_left_out() -> None:
    series = [measured(case, "a", case.classes, None) for case in CLASS_SERIES]
    series += [measured(case, "b", case.classes**2 if case.classes < 2000 else None, None) for case in CLASS_SERIES]
    found = {exponent.provider: exponent for exponent in fit(series)}
    assert found["a"].exponent == pytest.approx(1.0)
    assert found["b"].exponent == pytest.approx(2.0)
    assert (found["b"].smallest, found["b"].largest) == (125, 1000)


def test_two_sizes_have_no_exponent() -> None:
    assert fit([measured(case, "a", 1.0, 1) for case in CLASS_SERIES[:2]]) == []
    assert len(fit([measured(case, "a", 1.0, None) for case in CLASS_SERIES[:3]])) == 1


def test_named_cases_are_not_fitted() -> None:
    assert fit([measured(Case("ImageNet", 256, classes), "a", 1.0, 1) for classes in (10, 20, 40, 80)]) == []


def test_the_table_has_a_row_for_a_provider_and_states_its_sizes() -> None:
    exponents = [Exponent("a", "time", "C", 1.234, 0.056, 500, 4000), Exponent("a", "memory", "B", 2.0, 0.0, 128, 1024)]
    console = Console(width=140, record=True)
    console.print(scaling.table(exponents))
    text = console.export_text()
    (row,) = (line for line in text.splitlines() if line.startswith("│ a"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["a", "1.23 ± 0.06", "-", "-", "2.00 ± 0.00"]
    assert "C = 500 to 4000 and B = 128 to 1024" in " ".join(text.split())


def test_the_table_states_the_sizes_of_a_fit_that_has_others() -> None:
    exponents = [Exponent(provider, "time", "C", 2.0, 0.0, 500, 4000) for provider in ("a", "b")]
    exponents.append(Exponent("reference", "time", "C", 1.5, 0.25, 250, 2000))
    console = Console(width=140, record=True)
    console.print(scaling.table(exponents))
    text = console.export_text()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    assert [row[1] for row in rows] == ["2.00 ± 0.00", "2.00 ± 0.00", "1.50 ± 0.25 (250 to 2000)"]
    assert "C = 500 to 4000, the other" in " ".join(text.split())
