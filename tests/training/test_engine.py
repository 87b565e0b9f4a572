"""The training loop on a few tiny images."""

import dataclasses
import math
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


def test_a_frozen_teacher_has_no_gradient() -> None:
    teacher = engine.freeze(tiny_model(1))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_training_learns_what_can_be_learned() -> None:
    student = engine.build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 0)
    records = train(student, None, CrossEntropy(), dataclasses.replace(RECIPE, epochs=30))
    assert records[-1].loss < records[0].loss
    assert records[-1].test_accuracy > 70


def test_prediction_is_in_eval_mode_and_leaves_the_mode_as_it_was() -> None:
    model = tiny_model(0).train()
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    images = tiny_splits().test.images
    assert torch.equal(engine.predict(model, images), engine.predict(model, images))
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())
    assert model.training
    engine.predict(model.eval(), images)
    assert not model.training


class Recorded(nn.Module):
    """A linear student that keeps what it is shown in training mode, and counts its images in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.shown: list[Tensor] = []
        self.evaluated: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.shown.append(images.clone())
        else:
            self.evaluated.append(len(images))
        return self.linear(images.flatten(1))


def recorded_run(seed: int) -> Recorded:
    student = Recorded().eval()
    train(student, None, CrossEntropy(), dataclasses.replace(RECIPE, seed=seed))
    return student


def test_students_of_one_seed_see_the_same_augmented_images_and_of_another_seed_others() -> None:
    first, again, other = recorded_run(3), recorded_run(3), recorded_run(4)
    # 30 images in batches of 8, the remainder left out, in 2 epochs.
    assert len(first.shown) == 6
    assert all(torch.equal(one, two) for one, two in zip(first.shown, again.shown, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first.shown, other.shown, strict=True))
    clean = tiny_splits().train.images
    assert not any(torch.equal(image, original) for image in torch.cat(first.shown) for original in clean)


def test_order_and_augmentation_both_depend_on_the_seed() -> None:
    shown = {}
    for name, augment in (("order", lambda x, g: x), ("augmentation", lambda x, g: torch.rand(x.shape, generator=g))):
        for seed in (3, 4):
            student = Recorded()
            recipe = dataclasses.replace(RECIPE, seed=seed)
            splits = tiny_splits()._replace(augment=augment)
            engine.train(student, None, CrossEntropy(), splits, recipe, lambda *_: None, lambda _: None)
            shown[name, seed] = torch.cat(student.shown)
    assert not torch.equal(shown["order", 3], shown["order", 4])
    assert not torch.equal(shown["augmentation", 3], shown["augmentation", 4])


def test_validation_and_test_accuracy_come_from_their_own_split() -> None:
    splits = tiny_splits()
    always_0 = Split(splits.train.images, torch.zeros(30, dtype=torch.long))
    splits = splits._replace(train=always_0, validation=always_0, test=Split(splits.train.images, torch.ones(30).long()))
    student = engine.build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 0)
    recipe = dataclasses.replace(RECIPE, epochs=30)
    records = engine.train(student, None, CrossEntropy(), splits, recipe, lambda *_: None, lambda _: None)
    assert (records[-1].validation_accuracy, records[-1].test_accuracy) == (100.0, 0.0)


def test_the_learning_rate_decays_to_0_along_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = torch.optim.SGD.step

    def noted(self: torch.optim.SGD, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    train(tiny_model(0), None, CrossEntropy())
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * index / 6)) / 2 for index in range(6)])


class Constant(CrossEntropy):
    """A method whose loss at step ``n`` is ``n``."""

    def __call__(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> Any:
        object.__setattr__(self, "steps", getattr(self, "steps", 0) + 1)
        value: Any = self
        loss = 0 * student.sum() + value.steps
        return loss, {"double": 2 * loss.detach()}


def test_an_epoch_records_the_means_of_loss_and_terms_and_steps_the_running_mean() -> None:
    running: list[float] = []
    recipe = dataclasses.replace(RECIPE, epochs=1)
    (record,) = engine.train(
        tiny_model(0), None, Constant(), tiny_splits(), recipe, lambda *state: running.append(state[3]), lambda _: None
    )
    assert (record.loss, record.terms) == (2.0, {"double": 4.0})
    assert running == [1.0, 1.5, 2.0]


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
