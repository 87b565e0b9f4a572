"""The optimizers, the learning rate over a run, and the moving average."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from training.config import Config
from training.loop.optimization import make_average, make_optimizer, make_schedule
from training.methods import Stage


def rates(config: Config, steps: int, count: int, stage: Stage | None = None) -> list[float]:
    optimizer = make_optimizer(nn.Linear(1, 1), config, stage)
    schedule = make_schedule(optimizer, config, steps, stage)
    seen = []
    for _ in range(count):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_cosine_schedule_falls_from_the_learning_rate_to_0() -> None:
    seen = rates(Config(method="ce", epochs=2, learning_rate=0.4), 4, 9)
    assert seen == pytest.approx([0.2 * (1 + math.cos(math.pi * step / 8)) for step in range(9)])


def test_the_step_schedule_divides_by_10_after_each_milestone() -> None:
    config = Config(method="ce", epochs=4, learning_rate=1.0, schedule="step", milestones=(1, 3))
    assert rates(config, 2, 8) == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(("schedule", "milestones"), [("cosine", ()), ("step", (3,))])
def test_the_warm_up_rises_to_the_learning_rate_and_the_schedule_follows(schedule: str, milestones: tuple[int, ...]) -> None:
    config = Config(method="ce", epochs=4, learning_rate=1.0, warmup_epochs=2, schedule=schedule, milestones=milestones)
    seen = rates(config, 2, 8)
    assert seen[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert seen[-1] < 0.2


def test_a_first_stage_has_its_own_schedule() -> None:
    seen = rates(Config(method="ce", learning_rate=3.0), 1, 4, Stage(epochs=4, learning_rate=0.5, milestones=(1, 2)))
    assert seen == pytest.approx([0.5, 0.05, 0.005, 0.005])


def test_a_warm_up_in_steps_need_not_end_with_an_epoch() -> None:
    seen = rates(Config(method="ce", epochs=2, learning_rate=1.0, warmup_steps=3), 4, 8)
    assert seen[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert seen[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 5)) for step in range(1, 5)])


def test_a_warm_up_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps must be in \[0, steps of the training\), got 8 of 8"):
        rates(Config(method="ce", epochs=2, warmup_steps=8), 4, 1)


class Mixed(nn.Module):
    """Norms of several kinds, biases, and a parameter outside all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Flatten())
        self.norm = nn.LayerNorm((4, 5))
        self.head = nn.Linear(4, 2)
        self.position = nn.Parameter(torch.zeros(1, 4, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def decays(**settings: Any) -> dict[str, float]:
    """The weight decay of every parameter that is trained, by name."""
    module = Mixed()
    optimizer = make_optimizer(module, Config(method="ce", weight_decay=0.3, **settings))
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(parameter)]: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_are_excluded_from_weight_decay_only_on_request(optimizer: str) -> None:
    assert set(decays(optimizer=optimizer).values()) == {0.3}
    spared = decays(optimizer=optimizer, decay_norms_and_biases=False)
    assert {name for name, decay in spared.items() if decay} == {"body.0.weight", "head.weight", "position"}
    assert {name for name, decay in spared.items() if not decay} == {
        "body.0.bias", "body.1.weight", "body.1.bias", "body.2.weight", "body.2.bias", "norm.weight", "norm.bias",
        "head.bias",
    }  # fmt: skip


def test_adamw_takes_the_step_of_its_paper() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    optimizer = make_optimizer(layer, Config(method="ce", optimizer="adamw", learning_rate=0.1, weight_decay=0.5))
    layer(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    # The first step is the learning rate times the sign of the gradient, and the decay is separate from it.
    assert layer.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, abs=1e-6)


def test_a_first_stage_has_the_optimizer_of_its_paper() -> None:
    config = Config(method="ce", optimizer="adamw", learning_rate=1e-3, weight_decay=0.05)
    optimizer = make_optimizer(nn.Linear(1, 1), config, Stage(epochs=4, learning_rate=0.5, milestones=()))
    assert isinstance(optimizer, SGD)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.5, 5e-4)


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_the_decay_of_the_moving_average_grows_with_its_updates(decay: float) -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 7.0)
    average = make_average(layer, decay)
    assert average is not None
    expected = 7.0
    for n in range(12):
        nn.init.constant_(layer.weight, float(n))
        average.update(layer)
        kept = min(decay, (1 + n) / (10 + n))
        expected = kept * expected + (1 - kept) * n
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_moving_average_follows_statistics_and_copies_counts() -> None:
    model = nn.BatchNorm1d(1)
    average = make_average(model, 0.75)
    assert average is not None
    assert make_average(model, 0.0) is None
    with torch.no_grad():
        model.running_mean.fill_(2.0)
        model.num_batches_tracked.fill_(5)
    average.update(model)
    assert average.module.running_mean.item() == pytest.approx(0.9 * 2)
    assert average.module.num_batches_tracked.item() == 5


def test_a_restored_average_continues_with_its_decay() -> None:
    first, second = (make_average(nn.Linear(1, 1), 0.9999) for _ in range(2))
    assert first is not None
    assert second is not None
    for _ in range(5):
        first.update(nn.Linear(1, 1))
    second.load_state_dict(first.state_dict())
    last = nn.Linear(1, 1)
    for average in (first, second):
        average.update(last)
    assert torch.equal(first.module.weight, second.module.weight)
