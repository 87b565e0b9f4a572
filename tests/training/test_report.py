"""Tables of results: the last epoch is the headline, the best epoch is chosen on the validation split."""

import dataclasses
import math
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from training import report
from training.state import EpochRecord, best_epoch


def record(epoch: int, validation: float, test: float) -> EpochRecord:
    return EpochRecord(epoch, 0.5, {"ce": 0.5}, 60.0, validation, test, 10, 1.0, 0.1, 640.0, 0.1, 0)


RUNS = [
    [record(1, 90.0, 50.0), record(2, 80.0, 60.0)],
    [record(1, 70.0, 99.0), record(2, 75.0, 64.0)],
]


def test_the_best_epoch_is_chosen_on_validation_not_on_test() -> None:
    assert [best_epoch(records).test_accuracy for records in RUNS] == [50.0, 64.0]


def test_a_row_gives_mean_and_sample_deviation_over_the_seeds() -> None:
    # 60 and 64: mean 62, deviation sqrt(8); 50 and 64: mean 57, deviation sqrt(98).
    assert report.rows({"ce": RUNS}) == [("ce", "62.00 ± 2.83", "", "57.00 ± 9.90", "60.00 ± 0.00")]


def test_the_difference_to_kd_is_taken_seed_by_seed() -> None:
    other = [[record(1, 90.0, 61.0)], [record(1, 90.0, 66.0)]]
    rows = report.rows({"ce": other, "kd": RUNS})
    # 61 - 60 and 66 - 64: mean 1.5, deviation sqrt(1/2).
    assert [row[2] for row in rows] == ["+1.50 ± 0.71", ""]


def test_one_seed_has_no_deviation() -> None:
    assert report.rows({"ce": RUNS[:1]}) == [("ce", "60.00", "", "50.00", "60.00")]


def test_the_similarity_of_equal_confident_networks_is_the_identity() -> None:
    logits = 40 * torch.eye(4).repeat(3, 1)
    torch.testing.assert_close(report.class_similarity(logits, logits), torch.eye(4), rtol=0, atol=1e-6)


def test_a_class_of_vanishing_probability_has_similarity_1_to_itself() -> None:
    # Its log-probabilities are near -1.5e7, where float32 has no fractions.
    logits = torch.tensor([[0.0, 3e7], [0.0, 3e7]])
    torch.testing.assert_close(report.class_similarity(logits, logits).diagonal(), torch.ones(2), rtol=0, atol=1e-6)


def test_similarity_is_the_cosine_of_class_columns_with_the_student_first() -> None:
    student, teacher = [[1.0, -0.5, 2.0], [0.3, 0.1, -1.2]], [[0.2, 1.5, -0.7], [2.2, -0.4, 0.9]]

    def columns(rows: list[list[float]]) -> list[list[float]]:
        softmax = [[math.exp(value / 2) / sum(math.exp(other / 2) for other in row) for value in row] for row in rows]
        return [[value / math.hypot(*column) for value in column] for column in zip(*softmax, strict=True)]

    expected = [
        [sum(a * b for a, b in zip(left, right, strict=True)) for right in columns(teacher)] for left in columns(student)
    ]
    actual = report.class_similarity(torch.tensor(student, dtype=torch.float64), torch.tensor(teacher, dtype=torch.float64))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_summary_of_a_run_has_the_last_and_the_best_epoch() -> None:
    printed = StringIO()
    Console(width=100, file=printed).print(report.summary(RUNS[0], "ce"))
    line = next(line for line in printed.getvalue().splitlines() if "test accuracy" in line)
    assert line.index("60.00 %") < line.index("50.00 %")


@pytest.mark.parametrize("validation", [50.0, None])
def test_the_curves_of_a_run_are_drawn_with_and_without_validation(validation: float | None, tmp_path: Path) -> None:
    records = [dataclasses.replace(each, validation_accuracy=validation) for each in RUNS[0]]
    report.plot_run(records, tmp_path / "curves.png", "ce")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
