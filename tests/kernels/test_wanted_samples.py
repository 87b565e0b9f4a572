"""The gradient of some samples only, as each of several processes requests it: the same values with less work."""

import pytest
import torch
from cases import batch_of, make_inputs, settings_of, with_absences
from checks import Step, assert_right
from simulate import simulator

from bickd_kernels.backends.triton import planning, stages
from bickd_kernels.backends.triton.launch import Launch

SHAPE = (150, 70)
"""Three tiles of samples and two of classes, the last not full."""

WANTED = [slice(0, 50), slice(50, 100), slice(100, 150), slice(128, 150), slice(149, 150)]


@pytest.mark.parametrize("kept_bytes", [2**24, 0], ids=["kept", "panels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_parts_of_a_gradient_join_to_the_whole(
    dtype: torch.dtype, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "CACHED_BYTES", kept_bytes)
    monkeypatch.setattr(planning, "KEPT_BYTES", kept_bytes)
    inputs = with_absences(make_inputs(*SHAPE, dtype=dtype))
    batch, settings = batch_of("bickd", inputs), settings_of("bickd")
    with simulator(races="off"):
        parts = [stages.compute(batch, settings, wanted) for wanted in WANTED[:3]]
    for part in parts:
        assert part.gradient.shape == (50, 70)
        assert torch.equal(part.loss, parts[0].loss)
    assert_right(Step(parts[0].loss, torch.cat([part.gradient for part in parts])), "bickd", inputs)


def test_without_wanted_samples_the_gradient_is_empty_and_the_loss_is_computed() -> None:
    inputs = make_inputs(*SHAPE, dtype=torch.bfloat16)
    with simulator(races="off") as session:
        result = stages.compute(batch_of("bickd", inputs), settings_of("bickd"), slice(150, 150))
        assert session.launches == 4
    assert result.gradient.shape == (0, 70)
    assert result.loss.isfinite()


@pytest.mark.parametrize(("wanted", "tiles"), list(zip(WANTED, (1, 2, 2, 1, 1), strict=True)))
def test_only_tiles_with_wanted_samples_are_computed(wanted: slice, tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Launch] = []
    monkeypatch.setattr(stages, "run", lambda launches, *_: launched.extend(launches))
    inputs = make_inputs(*SHAPE, dtype=torch.bfloat16)
    with simulator():
        stages.compute(batch_of("bickd", inputs), settings_of("bickd"), wanted)
    programs = {launch.kernel.__name__: launch.programs[0] for launch in launched}
    # One program for the loss, one for each of the 2 x 3 tiles of the class side, and those of the sample side.
    assert programs["slope_tiles"] == 1 + 2 * 3 + tiles * 2
    # The matrices of derivatives are square: 2 x 2 tiles of classes, and 3 columns of tiles of samples.
    assert programs["derivative_tiles"] == 2 * 2 + tiles * 3
    samples_of_a_program = planning.plan(*SHAPE, 1, planning.Target("cuda", "90", 32)).gradient_logits.samples
    assert programs["logit_gradient"] == -(-(wanted.stop - wanted.start) // samples_of_a_program)
