"""The learning rate over a run, and the moving average."""

import math

import pytest
import torch
from torch import nn

from training.config import Config
from training.loop.optimization import make_average, make_optimizer, make_schedule
from training.methods import Stage


def rates(config: Config, steps: int, count: int, stage: Stage | None = None) -> list[float]:
    optimizer = make_optimizer(nn.Linear(1, 1).parameters(), config, config.learning_rate)
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


@pytest.mark.parametrize(("schedule", "milestones", "then"), [("cosine", (), 1.0), ("step", (3,), 1.0)])
def test_the_warm_up_rises_to_the_learning_rate_and_the_schedule_follows(
    schedule: str, milestones: tuple[int, ...], then: float
) -> None:
    config = Config(method="ce", epochs=4, learning_rate=1.0, warmup_epochs=2, schedule=schedule, milestones=milestones)
    seen = rates(config, 2, 8)
    assert seen[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, then])
    assert seen[-1] < 0.2


def test_a_first_stage_has_a_schedule_of_its_own() -> None:
    seen = rates(Config(method="ce", learning_rate=3.0), 1, 4, Stage(epochs=4, learning_rate=0.5, milestones=(1, 2)))
    assert seen == pytest.approx([3.0, 0.3, 0.03, 0.03])


def test_the_moving_average_follows_weights_and_statistics() -> None:
    model = nn.BatchNorm1d(1)
    average = make_average(model, 0.75)
    assert average is not None
    assert make_average(model, 0.0) is None
    average.update_parameters(model)
    with torch.no_grad():
        model.weight.fill_(5.0)
        model.running_mean.fill_(2.0)
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(0.75 * 1 + 0.25 * 5)
    assert average.module.running_mean.item() == pytest.approx(0.25 * 2)
