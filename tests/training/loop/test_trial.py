"""The trial pass reports why a network does not accept the images, and changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.config import Config
from training.data.splits import Batch, Split, View
from training.loop.trial import try_network
from training.models import Network, make_model

CPU = torch.device("cpu")


class Blank(Split):
    """Images of one size, twice as large without a view; the first ``broken`` of them cannot be read."""

    def __init__(self, size: int, broken: int = 0, count: int = 40) -> None:
        self.labels, self.size, self.broken = torch.arange(count) % 3, size, broken

    def load(self, index: Tensor, view: View | None = None) -> Batch:
        kept = index[index >= self.broken]
        side = self.size if view is not None else 2 * self.size
        return Batch(torch.rand(len(kept), 3, side, side), self.labels[kept], kept)


def attempt(model: nn.Module, split: Split, *, name: str = "mine", view: View | None = None, **settings: Any) -> None:
    config = Config(method="ce", dataset="folder:x", **settings)
    try_network("student", name, Network(model, 3), split, config, CPU, view=view)


def test_a_network_with_a_fixed_input_size_is_refused_with_model_setting_and_size() -> None:
    model = make_model("vit_b_32", 3, 3)
    expected = (
        r"^student vit_b_32 does not accept the images of folder:x, 3 x 64 x 64 with image_size 64: Wrong image height! .*"
        r"it expects image_size 224$"
    )
    with pytest.raises(ValueError, match=expected):
        attempt(model, Blank(32), name="vit_b_32", image_size=64)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 3)), "mat1 and mat2 shapes cannot be multiplied"),
        (nn.Conv2d(1, 3, 3), "to have 1 channels"),
        (nn.MaxPool2d(999), "too small"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), r"it returns \(2, 4\) instead of \(2, 3\) logits"),
        (nn.ReLU(), r"it returns \(2, 3, 16, 16\) instead of \(2, 3\) logits"),
    ],
)
def test_every_way_in_which_a_network_fails_on_a_size_is_reported(model: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^student mine does not accept the images of folder:x, 3 x 16 x 16 .*{reason}"):
        attempt(model, Blank(8))


def test_weights_statistics_modes_and_random_state_do_not_change() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(3))
    model(torch.rand(2, 3, 8, 8))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    images = Blank(8)
    images.load = lambda index, view=None: Batch(torch.ones(1, 3, 8, 8), index, index)  # type: ignore[method-assign]
    attempt(model, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_the_images_are_those_of_the_view() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    attempt(model, Blank(8), view=View(0, 0))
    with pytest.raises(ValueError, match="3 x 16 x 16"):
        attempt(model, Blank(8))


def test_images_that_cannot_be_read_are_skipped() -> None:
    with pytest.raises(ValueError, match="does not accept"):
        attempt(nn.Conv2d(1, 3, 3), Blank(8, broken=5))
    # If no image can be read, the run itself reports it.
    attempt(nn.Conv2d(1, 3, 3), Blank(8, broken=40))
