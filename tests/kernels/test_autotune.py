"""``BICKD_AUTOTUNE=1``: every pipeline that is tried computes the same."""

import pytest
import torch
from cases import evaluate, make_inputs
from simulate import simulator

from bickd_kernels.backends.triton import general, launch
from bickd_kernels.backends.triton.contrast import similarity_tiles, slope_tiles

CONFIGURATIONS = 12


def test_every_configuration_is_tried_once_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(5, 140, dtype=torch.float32)
    with simulator():
        expected = evaluate("bickd", inputs)
    monkeypatch.setattr(launch, "AUTOTUNE", True)
    monkeypatch.setattr(general, "similarity_kernel", launch.tunable(similarity_tiles))
    monkeypatch.setattr(general, "slope_kernel", launch.tunable(slope_tiles))
    with simulator() as session:
        first = evaluate("bickd", inputs)
        assert session.launches == 5 + 2 * CONFIGURATIONS
        again = evaluate("bickd", inputs)
        assert session.launches == 2 * 5 + 2 * CONFIGURATIONS
    # Another step of the loop over the entries of a vector is another order of its sums.
    for tuned in (first, again):
        torch.testing.assert_close(tuned[0], expected[0], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(tuned[1], expected[1], rtol=1e-5, atol=1e-8)
