"""A teacher counts as near chance by its accuracy and the number of images that it was measured on."""

import pytest

from training.loop.teacher import near_chance


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
