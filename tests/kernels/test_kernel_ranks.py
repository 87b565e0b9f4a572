"""Data-parallel training with the kernels: every rank launches them on the global batch, for its own gradient."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from cases import as_double, evaluate, make_inputs, network, own_part, relative_error
from checks import FLOAT32_GRADE
from simulate import simulator
from together import together
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bickd_kernels import bickd_loss
from training.methods import make_method
from training.methods.method import Samples
from training.models.output import Output

SAMPLES, CLASSES = 24, 21
SPLITS = {2: (15, 9), 4: (7, 0, 12, 5)}


class Outcome(NamedTuple):
    """The results of one rank."""

    launches: int
    loss: Tensor
    gradient: Tensor
    parameters: list[Tensor]
    launches_of_the_trainer: int


def work(rank: int) -> Outcome:
    part = own_part(make_inputs(SAMPLES, CLASSES, dtype=torch.float32), SPLITS[dist.get_world_size()], rank)
    student = part.student.clone().requires_grad_()
    with simulator() as session:
        loss = bickd_loss(student, part.teacher, part.target, group=dist.group.WORLD)
        (gradient,) = torch.autograd.grad(loss, student)
        launches = session.launches
        model, method = DistributedDataParallel(network(CLASSES, 16)), make_method("bickd")
        samples = Samples(target=part.target, index=torch.arange(len(part.target)))
        step, _ = method(Output(model(part.student)), Output(part.teacher), samples)
        step.backward()
        launches_of_the_trainer = session.launches - launches
    parameters = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return Outcome(launches, loss.detach(), gradient, parameters, launches_of_the_trainer)


@pytest.fixture(scope="module", params=SPLITS)
def by_rank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    results: list[Any] = together(request.param, work, folder=folder, seconds=300)
    return results


def test_every_rank_launches_the_kernels(by_rank: list[Outcome]) -> None:
    for outcome in by_rank:
        # A rank without samples computes no gradient.
        assert outcome.launches == 6 - 2 * (len(outcome.gradient) == 0)
        assert outcome.launches_of_the_trainer == outcome.launches


def test_ranks_together_have_the_loss_and_the_gradient_of_one_process(by_rank: list[Outcome]) -> None:
    inputs = make_inputs(SAMPLES, CLASSES, dtype=torch.float32)
    loss, gradient = evaluate("bickd", as_double(inputs), backend="reference")
    for outcome in by_rank:
        assert float(outcome.loss) == pytest.approx(float(loss), rel=1e-6)
    joined = torch.cat([outcome.gradient for outcome in by_rank]) / len(by_rank)
    assert relative_error(joined, gradient) <= FLOAT32_GRADE


def test_a_training_step_has_the_parameter_gradients_of_one_process(by_rank: list[Outcome]) -> None:
    inputs = make_inputs(SAMPLES, CLASSES, dtype=torch.float32)
    alone = network(CLASSES, 16).double()
    bickd_loss(alone(inputs.student.double()), inputs.teacher.double(), inputs.target, backend="reference").backward()
    for outcome in by_rank:
        for gradient, parameter in zip(outcome.parameters, alone.parameters(), strict=True):
            assert parameter.grad is not None
            # The network runs in float32 too: its products and sums add as much to the error of the logits' gradient.
            assert relative_error(gradient, parameter.grad) <= 2 * FLOAT32_GRADE
