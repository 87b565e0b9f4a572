"""The training loop on a few tiny images."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training import engine
from training.data import Split, Splits
from training.methods import Method
from training.methods.ce import CrossEntropy
from training.methods.kd import KnowledgeDistillation

RECIPE = engine.Recipe(epochs=2, batch_size=8, learning_rate=0.1, momentum=0.9, weight_decay=0.0, seed=3)


def tiny_splits() -> Splits:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(30, 1, 4, 4, generator=generator), torch.arange(30) % 3
    split = Split(images + labels[:, None, None, None], labels)
    return Splits(split, split, split, 3, lambda x, g: x + 0.1 * torch.randn(x.shape, generator=g))


def tiny_model(seed: int) -> nn.Module:
    return engine.build(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)), seed
    )


def train(
    student: nn.Module, teacher: nn.Module | None, method: Method, recipe: engine.Recipe = RECIPE
) -> list[engine.EpochRecord]:
    return engine.train(student, teacher, method, tiny_splits(), recipe, lambda *_: None, lambda _: None)


class TeacherWatch(KnowledgeDistillation):
    """kd that notes in which mode the teacher is at every step."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "teacher", teacher)
        object.__setattr__(self, "modes", [])

    def __call__(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> Any:
        watched: Any = self
        watched.modes.append(any(module.training for module in watched.teacher.modules()))
        assert teacher is not None
        assert not teacher.requires_grad
        return super().__call__(student, teacher, target)


def test_the_teacher_is_in_eval_mode_at_every_step_and_does_not_change() -> None:
    teacher = tiny_model(1).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    watch: Any = TeacherWatch(teacher)
    train(tiny_model(0), teacher, watch)
    assert watch.modes == [False] * 6
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_frozen_teacher_stays_in_eval_mode_when_a_module_around_it_is_trained() -> None:
    teacher = engine.freeze(tiny_model(1))
    both = nn.ModuleDict({"student": tiny_model(0), "teacher": teacher})
    both.train()
    assert both["student"].training
    assert not any(module.training for module in teacher.modules())


def test_one_seed_gives_one_result_to_the_bit() -> None:
    students = []
    for _ in range(2):
        student = tiny_model(5)
        torch.manual_seed(0)
        train(student, None, CrossEntropy())
        students.append(student.state_dict())
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_building_a_model_leaves_the_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    tiny_model(7)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_learns_what_can_be_learned() -> None:
    student = engine.build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 0)
    records = train(student, None, CrossEntropy(), dataclasses.replace(RECIPE, epochs=30))
    assert records[-1].loss < records[0].loss
    assert records[-1].test_accuracy > 70


def test_accuracy_is_the_share_of_right_answers_in_percent() -> None:
    model = nn.Flatten()
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [5.0, 1.0]])
    assert engine.accuracy(model, Split(images, torch.tensor([0, 1, 1, 0])), 2) == pytest.approx(75.0)


class Diverging(CrossEntropy):
    """A method one of whose terms becomes NaN."""

    def __call__(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> Any:
        loss, terms = super().__call__(student, teacher, target)
        return loss * float("nan"), {**terms, "wrong": torch.tensor(float("nan"))}


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_term() -> None:
    student = tiny_model(0)
    before = [parameter.clone() for parameter in student.parameters()]
    with pytest.raises(engine.NonFiniteLossError, match=r"epoch 1, step 1: wrong = nan"):
        train(student, None, Diverging())
    assert all(torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True))
