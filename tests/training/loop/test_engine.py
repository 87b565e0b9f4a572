"""The epochs of a run: what student and teacher see, what is recorded, and the stages of a method."""

import copy
from typing import Any

import pytest
import torch
from tiny_training import (
    CPU,
    Noted,
    Recorded,
    TinySplit,
    TwoStages,
    linear_model,
    make_config,
    make_trainer,
    recorded_run,
    tiny_model,
    tiny_splits,
)
from torch import Tensor, nn

from training.loop.distributed import Processes
from training.loop.engine import NonFiniteLossError
from training.loop.evaluation import accuracy
from training.methods import Samples, Terms
from training.methods.ce import CrossEntropy
from training.methods.kd import KnowledgeDistillation
from training.models import Output
from training.observer import Observer, StepReport
from training.state import State, best_epoch


class TeacherWatch(KnowledgeDistillation):
    """kd that records the mode of the teacher at every step."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.watched = [teacher]
        self.modes: list[bool] = []

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        self.modes.append(any(module.training for module in self.watched[0].modules()))
        assert teacher is not None
        assert not teacher.logits.requires_grad
        return super().forward(student, teacher, samples)


def test_the_teacher_is_in_eval_mode_at_every_step_and_does_not_change() -> None:
    teacher = tiny_model(1).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    watch = TeacherWatch(teacher)
    make_trainer(method=watch, teacher=teacher).train()
    assert watch.modes == [False] * 6
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_two_runs_of_one_seed_give_the_same_bits() -> None:
    states = []
    for _ in range(2):
        trainer = make_trainer()
        trainer.train()
        states.append(trainer.network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_building_a_model_leaves_the_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    tiny_model(7)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_lowers_the_loss_and_classifies_most_images() -> None:
    records = make_trainer(linear_model(), config=make_config(epochs=30)).train()
    assert records[-1].loss < records[0].loss
    assert records[-1].test_accuracy > 70
    assert records[-1].train_accuracy > 70


def test_students_of_one_seed_see_the_same_augmented_images_and_those_of_another_seed_see_others() -> None:
    first, again, other = recorded_run(), recorded_run(), recorded_run(seed=4)
    # 30 images in batches of 8, the remainder left out, in 2 epochs; each evaluated twice an epoch.
    assert (len(first.shown), first.evaluated) == (6, [30] * 4)
    assert all(torch.equal(one, two) for one, two in zip(first.shown, again.shown, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first.shown, other.shown, strict=True))
    clean = TinySplit().images
    assert not any(torch.equal(image, original) for image in torch.cat(first.shown) for original in clean)


def test_workers_read_the_same_images_as_the_trainer_itself() -> None:
    own, workers = recorded_run(epochs=1), recorded_run(epochs=1, workers=2)
    assert torch.equal(torch.cat(own.shown), torch.cat(workers.shown))


def test_validation_and_test_accuracy_come_from_their_own_split() -> None:
    zeros, ones = TinySplit(torch.zeros(30, dtype=torch.long)), TinySplit(torch.ones(30, dtype=torch.long))
    trainer = make_trainer(linear_model(), config=make_config(epochs=30), splits=tiny_splits(zeros, zeros, ones))
    records = trainer.train()
    assert (records[-1].validation_accuracy, records[-1].test_accuracy) == (100.0, 0.0)


def test_without_a_validation_split_the_last_epoch_is_the_best_one() -> None:
    records = make_trainer(splits=tiny_splits()._replace(validation=None)).train()
    assert [record.validation_accuracy for record in records] == [None, None]
    assert best_epoch(records) is records[-1]


class Constant(CrossEntropy):
    """A method whose loss at step ``n`` is ``n``."""

    steps = 0

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        self.steps += 1
        loss = 0 * student.logits.sum() + self.steps
        return loss, {"double": 2 * loss.detach()}


def test_an_epoch_records_the_means_of_loss_and_terms_and_a_step_reports_the_running_mean() -> None:
    noted = Noted()
    (record,) = make_trainer(config=make_config(epochs=1), method=Constant(), observer=noted).train()
    assert (record.loss, record.terms, record.steps) == (2.0, {"double": 4.0}, 3)
    assert [report.loss for report in noted.steps] == [1.0, 1.5, 2.0]
    assert [(report.epoch, report.step, report.steps) for report in noted.steps] == [(1, 1, 3), (1, 2, 3), (1, 3, 3)]
    assert noted.epochs == [record]


class Diverging(CrossEntropy):
    """A method one of whose terms becomes NaN at the fourth step."""

    steps = 0

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        self.steps += 1
        loss, terms = super().forward(student, teacher, samples)
        factor = float("nan") if self.steps == 4 else 1.0
        return loss * factor, {**terms, "wrong": loss.detach() * factor}


def test_a_loss_that_is_not_finite_stops_the_run_names_step_and_term_and_is_never_saved() -> None:
    saved: list[State] = []
    config = make_config(checkpoint_minutes=0.0)
    trainer = make_trainer(config=config, method=Diverging(), save=lambda state: saved.append(copy.deepcopy(state)))
    with pytest.raises(NonFiniteLossError, match=r"loss nan in epoch 2, step 1: wrong = nan is not finite"):
        trainer.train()
    assert [(state["epoch"], state["step"]) for state in saved] == [(1, 1), (1, 2), (2, 0)]
    trainer.load_state(saved[-1])
    assert all(torch.isfinite(parameter).all() for parameter in trainer.network.parameters())


def test_a_first_stage_trains_only_its_parameters_and_they_are_frozen_after_it() -> None:
    method = TwoStages()
    before = method.head.weight.clone()
    student = linear_model()
    start = {name: value.clone() for name, value in student.state_dict().items()}
    heads: list[Tensor] = []

    class Watch(Observer):
        def on_step(self, report: StepReport) -> None:
            if report.stage == "first":
                assert all(torch.equal(value, start[name]) for name, value in student.state_dict().items())
            heads.append(method.head.weight.detach().clone())

    records = make_trainer(student, method=method, teacher=linear_model(1), observer=Watch()).train()
    assert [stage for stage, _, _ in method.seen] == ["first"] * 6 + ["main"] * 6
    assert [round(epochs, 3) for _, epochs, _ in method.seen] == [0.0, 0.333, 0.667, 1.0, 1.333, 1.667] * 2
    assert [trained for _, _, trained in method.seen] == [True] * 6 + [False] * 6
    assert not torch.equal(heads[5], before)
    assert torch.equal(heads[5], heads[-1])
    assert len(records) == 2


def test_a_first_stage_does_not_change_the_images_that_the_student_sees() -> None:
    student = Recorded().eval()
    make_trainer(student, method=TwoStages(), teacher=linear_model(1)).train()
    assert torch.equal(torch.cat(student.shown), torch.cat(recorded_run().shown))


def test_the_moving_average_is_evaluated() -> None:
    trainer = make_trainer(linear_model(), config=make_config(ema_decay=0.9))
    records = trainer.train()
    assert trainer.network is not trainer.learner.student
    assert not torch.equal(trainer.network.model[1].weight, trainer.learner.student.model[1].weight)
    assert accuracy(trainer.network, TinySplit(), trainer.config, CPU, Processes()) == records[-1].test_accuracy


def test_a_moving_average_in_a_short_run_is_nearly_as_accurate_as_the_weights() -> None:
    accuracies = []
    for decay in (0.0, 0.9999):
        trainer = make_trainer(linear_model(), config=make_config(epochs=30, ema_decay=decay))
        accuracies.append(trainer.train()[-1].test_accuracy)
    assert accuracies[0] > 70
    assert accuracies[1] > 0.9 * accuracies[0]


def moved(clip_norm: float | None, **settings: Any) -> float:
    """How far one step of plain SGD moves the weights."""
    student = linear_model()
    before = [parameter.detach().clone() for parameter in student.parameters()]
    config = make_config(
        epochs=1, batch_size=30, momentum=0.0, weight_decay=0.0, clip_norm=clip_norm, learning_rate=0.1, **settings
    )
    make_trainer(student, config=config).train()
    pairs = zip(student.parameters(), before, strict=True)
    return torch.cat([(parameter.detach() - start).flatten() for parameter, start in pairs]).norm().item()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_gradient_is_clipped_to_the_norm_if_it_is_longer_and_unchanged_if_it_is_shorter(
    precision: str, accumulate: int
) -> None:
    free = moved(None, precision=precision, accumulate=accumulate)
    gradient = free / 0.1
    # Without unscaling, the gradient under a scaler would be 65536 times as long.
    clipped = moved(gradient / 4, precision=precision, accumulate=accumulate)
    assert clipped == pytest.approx(free / 4, rel=1e-3)
    assert moved(4 * gradient, precision=precision, accumulate=accumulate) == pytest.approx(free, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_a_lower_precision_gives_the_method_float32_logits(precision: str) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []

    class Watch(KnowledgeDistillation):
        def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
            assert teacher is not None
            seen.append((student.logits.dtype, teacher.logits.dtype))
            return super().forward(student, teacher, samples)

    config = make_config(precision=precision, epochs=20)
    records = make_trainer(linear_model(), config=config, method=Watch(), teacher=linear_model(1)).train()
    assert set(seen) == {(torch.float32, torch.float32)}
    assert records[-1].loss < records[0].loss
