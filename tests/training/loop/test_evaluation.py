"""Accuracy, calibration and agreement of a network on a split."""

import math

import pytest
import torch
from tiny_training import CPU, TinySplit, linear_model, make_config
from torch import nn

from training.loop.distributed import Processes
from training.loop.evaluation import Quality, UnreadableImageError, accuracy, measure
from training.models import Network


def constant_network(logits: list[float]) -> Network:
    """A network in training mode that gives every image the same logits."""
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 3).train()
    with torch.no_grad():
        network.model[1].weight.zero_()
        network.model[1].bias.copy_(torch.tensor(logits))
    return network


def test_accuracy_is_the_percentage_of_correct_answers_and_the_mode_is_restored() -> None:
    network = constant_network([0.0, 1.0, 0.0])
    split = TinySplit(torch.tensor([1] * 6 + [0] * 2))
    assert accuracy(network, split, make_config(), CPU, Processes()) == pytest.approx(75.0)
    assert network.training


@pytest.mark.parametrize(("teacher_logits", "agreement"), [([0.0, 0.1, 0.0], 100.0), ([1.0, 0.0, 0.0], 0.0), (None, None)])
def test_quality_has_calibration_and_the_agreement_with_a_teacher(
    teacher_logits: list[float] | None, agreement: float | None
) -> None:
    teacher = None if teacher_logits is None else constant_network(teacher_logits)
    # The probabilities are (1/8, 3/4, 1/8), and the largest is right for 6 of 8 images: perfectly calibrated.
    network = constant_network([0.0, math.log(6), 0.0])
    labels = torch.tensor([1] * 6 + [0] * 2)
    found = measure(network, TinySplit(labels), make_config(), CPU, Processes(), teacher=teacher)
    assert found == Quality(pytest.approx(75.0), 100.0, pytest.approx(0.0, abs=1e-4), agreement, 8)
    all_right = measure(
        network, TinySplit(torch.ones(8, dtype=torch.long)), make_config(), CPU, Processes(), teacher=teacher
    )
    assert all_right.calibration_error == pytest.approx(25.0)
    assert network.training


def test_a_split_without_a_readable_image_has_no_accuracy() -> None:
    nothing = TinySplit(broken=tuple(range(30)))
    with pytest.raises(UnreadableImageError, match="none of the 30 images of a split could be read"):
        accuracy(Network(linear_model(), 3), nothing, make_config(), CPU, Processes(), lambda messages: None)


def test_a_broken_image_that_is_not_reported_otherwise_causes_a_warning() -> None:
    with pytest.warns(UserWarning, match="left out: image 7 is broken"):
        accuracy(Network(linear_model(), 3), TinySplit(broken=(7,)), make_config(), CPU, Processes())
