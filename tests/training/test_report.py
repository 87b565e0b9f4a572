"""The table: last epoch as the headline, the best epoch chosen on the validation split."""

import math

import torch

from training import report
from training.engine import EpochRecord
from training.run import best_epoch
from training.similarity import class_similarity


def record(epoch: int, validation: float, test: float) -> EpochRecord:
    return EpochRecord(epoch, 0.0, {}, validation, test, 0.0)


RUNS = [
    [record(1, 90.0, 50.0), record(2, 80.0, 60.0)],
    [record(1, 70.0, 99.0), record(2, 75.0, 64.0)],
]


def test_the_best_epoch_is_chosen_on_validation_not_on_test() -> None:
    assert [best_epoch(records).test_accuracy for records in RUNS] == [50.0, 64.0]


def test_a_row_gives_mean_and_sample_deviation_over_the_seeds() -> None:
    # 60 and 64: mean 62, deviation sqrt(8); 50 and 64: mean 57, deviation sqrt(98).
    assert report.rows({"ce": RUNS}) == [("ce", "62.00 ± 2.83", "57.00 ± 9.90")]


def test_one_seed_has_no_deviation() -> None:
    assert report.rows({"ce": RUNS[:1]}) == [("ce", "60.00", "50.00")]


def test_similarity_is_1_on_the_diagonal_of_equal_networks_and_small_between_sure_classes() -> None:
    logits = 40 * torch.eye(4).repeat(3, 1)
    torch.testing.assert_close(class_similarity(logits, logits), torch.eye(4), rtol=0, atol=1e-6)


def test_similarity_is_the_cosine_of_class_columns_with_the_student_first() -> None:
    student, teacher = [[1.0, -0.5, 2.0], [0.3, 0.1, -1.2]], [[0.2, 1.5, -0.7], [2.2, -0.4, 0.9]]

    def columns(rows: list[list[float]]) -> list[list[float]]:
        softmax = [[math.exp(value / 2) / sum(math.exp(other / 2) for other in row) for value in row] for row in rows]
        return [[value / math.hypot(*column) for value in column] for column in zip(*softmax, strict=True)]

    expected = [
        [sum(a * b for a, b in zip(left, right, strict=True)) for right in columns(teacher)] for left in columns(student)
    ]
    actual = class_similarity(torch.tensor(student, dtype=torch.float64), torch.tensor(teacher, dtype=torch.float64))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
