"""The accuracy of a teacher and the number of images it was measured on: near chance, or not that of its checkpoint."""

import pytest

from training.loop.teacher import near_chance, tolerance


@pytest.mark.parametrize(
    ("accuracy", "pictures", "classes"),
    [
        (20.0, 500, 5),
        (0.0, 500, 5),
        (50.0, 10_000, 2),
        (1.0, 10_000, 100),
        # A random order of the classes leaves about one in its place, and a few orders leave four.
        (4.0, 10_000, 100),
        (0.1, 50_000, 1000),
        # With ten images, four correct answers for five classes prove nothing.
        (40.0, 10, 5),
    ],
)
def test_an_accuracy_that_cannot_be_told_from_chance_is_near_it(accuracy: float, pictures: int, classes: int) -> None:
    assert near_chance(accuracy, pictures, classes)


@pytest.mark.parametrize(
    ("accuracy", "pictures", "classes"),
    [(40.0, 500, 5), (60.0, 10_000, 2), (12.0, 10_000, 100), (10.0, 50_000, 1000), (90.0, 10, 5), (100.0, 20, 2)],
)
def test_a_weak_teacher_is_not_near_chance(accuracy: float, pictures: int, classes: int) -> None:
    assert not near_chance(accuracy, pictures, classes)


def test_an_accuracy_on_few_pictures_may_differ_by_the_predictions_that_a_precision_changes() -> None:
    # On 100 pictures, one changed prediction is already twice what is allowed on many.
    assert tolerance(10_000) == tolerance(50_000) == 0.5
    assert tolerance(1000) == pytest.approx(1.342, abs=1e-3)
    assert tolerance(100) == pytest.approx(4.243, abs=1e-3)
