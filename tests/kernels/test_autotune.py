"""``BICKD_AUTOTUNE=1``: every configuration that is tried computes the same."""

import pytest
import torch
from cases import evaluate, make_inputs
from simulate import simulator

from bickd_kernels.backends.triton import planning, stages
from bickd_kernels.backends.triton.similarity_tiles import similarity_tiles
from bickd_kernels.backends.triton.slope_tiles import slope_tiles

CONFIGURATIONS = 12


def test_every_configuration_is_tried_once_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(5, 140, dtype=torch.float32)
    with simulator():
        expected = evaluate("bickd", inputs)
    monkeypatch.setattr(planning, "AUTOTUNE", True)
    monkeypatch.setattr(stages, "similarity_kernel", planning.tunable(similarity_tiles))
    monkeypatch.setattr(stages, "slope_kernel", planning.tunable(slope_tiles))
    with simulator() as session:
        first = evaluate("bickd", inputs)
        assert session.launches == 6 + 2 * CONFIGURATIONS
        again = evaluate("bickd", inputs)
        assert session.launches == 2 * 6 + 2 * CONFIGURATIONS
    # Another step size in the loop over vector entries changes the order of the sums. Two sums of 140 numbers in any order
    # differ by about 2 sqrt(140) 2^-24 = 1.4e-6; where entries cancel, that is relative to what cancels.
    for tuned in (first, again):
        torch.testing.assert_close(tuned[0], expected[0], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(tuned[1], expected[1], rtol=2e-6, atol=1e-8)
