"""The cost of reading and augmenting a batch, relative to a training step on it."""

from benchmarks.input_share import RECIPES, measure, table


def test_reading_and_augmenting_a_batch_is_at_most_a_twentieth_of_a_training_step() -> None:
    shares = measure(list(RECIPES), seconds=0.0)
    assert [share.recipe for share in shares] == list(RECIPES)
    assert all(share.of_step.median <= 0.05 for share in shares)
    assert table(shares).row_count == len(RECIPES)
