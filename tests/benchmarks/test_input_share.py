"""The cost of reading and augmenting a batch, relative to a training step on it."""

from benchmarks.input_share import RECIPES, measure, table


def test_every_recipe_is_measured_and_has_a_row() -> None:
    shares = measure(list(RECIPES), seconds=0.0)
    assert [share.recipe for share in shares] == list(RECIPES)
    assert all(value > 0 for share in shares for value in (*share.seconds, *share.of_step))
    assert table(shares).row_count == len(RECIPES)
