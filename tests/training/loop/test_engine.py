"""The training loop on a few tiny images."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.config import Config
from training.data.identity import Identity
from training.data.splits import Batch, Split, Splits, View
from training.loop import engine
from training.loop.distributed import Processes
from training.loop.engine import NonFiniteLossError, Trainer
from training.loop.evaluation import Quality, UnreadableImageError, accuracy, measure
from training.loop.interruption import Interrupted, Interruption
from training.loop.teacher import Teacher
from training.methods import Method, Samples, Stage, Terms
from training.methods.ce import CrossEntropy
from training.methods.kd import KnowledgeDistillation
from training.models import Network, Output
from training.observer import Observer, StepReport
from training.state import EpochRecord, State, best_epoch

CPU = torch.device("cpu")


class TinySplit(Split):
    """30 images that show their class, with noise in a view; ``broken`` samples cannot be read."""

    def __init__(self, labels: Tensor | None = None, broken: tuple[int, ...] = ()) -> None:
        self.labels = torch.arange(30) % 3 if labels is None else labels
        shown = (torch.arange(len(self.labels)) % 3)[:, None, None, None]
        self.images = torch.randn(len(self.labels), 1, 4, 4, generator=torch.Generator().manual_seed(0)) + shown
        self.broken = broken

    def load(self, index: Tensor, view: View | None = None) -> Batch:
        images = self.images
        if view is not None:
            images = images + 0.1 * torch.randn(images.shape, generator=view.generator())
        kept = torch.tensor([sample for sample in index.tolist() if sample not in self.broken], dtype=torch.long)
        failures = tuple(f"image {sample} is broken" for sample in index.tolist() if sample in self.broken)
        return Batch(images[kept], self.labels[kept], kept, failures)


def tiny_splits(train: Split | None = None, validation: Split | None = None, test: Split | None = None) -> Splits:
    return Splits(
        train or TinySplit(), validation or TinySplit(), test or TinySplit(), 3, 1, "noise", Identity(("a", "b", "c"), {})
    )


def tiny_model(seed: int = 0) -> nn.Module:
    return engine.build(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)), seed
    )


def linear_model(seed: int = 0) -> nn.Module:
    return engine.build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), seed)


def make_config(**settings: Any) -> Config:
    return Config(**{"method": "ce", "epochs": 2, "batch_size": 8, "learning_rate": 0.1, "seed": 3, **settings})


def make_trainer(
    student: nn.Module | None = None,
    *,
    config: Config | None = None,
    method: Method | None = None,
    teacher: nn.Module | None = None,
    splits: Splits | None = None,
    observer: Observer | None = None,
    save: Callable[[State], None] = lambda state: None,
    interruption: Interruption | None = None,
) -> Trainer:
    torch.manual_seed(0)
    return Trainer(
        config or make_config(), splits or tiny_splits(), Network(student or tiny_model(), 3), method or CrossEntropy(),
        None if teacher is None else Teacher(Network(teacher, 3), 0.0, "float32"), CPU, Processes(),
        observer or Observer(), save, interruption or Interruption(),
    )  # fmt: skip


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


class Recorded(nn.Module):
    """A linear student that keeps its images in training mode and counts them in evaluation mode."""

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


def recorded_run(**settings: Any) -> Recorded:
    student = Recorded().eval()
    make_trainer(student, config=make_config(**settings)).train()
    return student


def test_students_of_one_seed_see_the_same_augmented_images_and_those_of_another_seed_see_others() -> None:
    first, again, other = recorded_run(), recorded_run(), recorded_run(seed=4)
    # 30 images in batches of 8, the remainder left out, in 2 epochs; each evaluated twice an epoch.
    assert (len(first.shown), first.evaluated) == (6, [30] * 4)
    assert all(torch.equal(one, two) for one, two in zip(first.shown, again.shown, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first.shown, other.shown, strict=True))
    clean = TinySplit().images
    assert not any(torch.equal(image, original) for image in torch.cat(first.shown) for original in clean)


def test_the_parts_of_an_accumulated_step_have_the_samples_of_the_whole_step() -> None:
    whole, parts = recorded_run(), recorded_run(accumulate=4)
    assert [len(images) for images in parts.shown] == [2] * 24
    assert torch.equal(torch.cat(parts.shown), torch.cat(whole.shown))


MIXING = {"mixup": 0.4, "cutmix": 1.0}


class SeesMixed(KnowledgeDistillation):
    """kd that keeps the target probabilities and the student's answers of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Tensor] = []
        self.answers: list[Tensor] = []

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        self.targets.append(samples.target)
        self.answers.append(student.logits.argmax(dim=1))
        return super().forward(student, teacher, samples)


def mixed_run(**settings: Any) -> tuple[Recorded, Recorded, SeesMixed, EpochRecord]:
    student, teacher, method = Recorded().eval(), Recorded(), SeesMixed()
    config = make_config(**MIXING, **settings)
    trainer = make_trainer(student, config=config, method=method, teacher=teacher)
    # ``Recorded`` keeps images in training mode only, and the teacher is never in it.
    shown = teacher.shown
    teacher.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].clone()))
    return student, teacher, method, trainer.train()[0]


def test_student_and_teacher_see_the_same_mixed_images_and_the_method_gets_their_probabilities() -> None:
    student, teacher, method, record = mixed_run()
    assert len(student.shown) == len(teacher.shown) == len(method.targets) == 6
    assert all(torch.equal(one, other) for one, other in zip(student.shown, teacher.shown, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(student.shown, recorded_run().shown, strict=True))
    for targets in method.targets:
        assert targets.shape == (8, 3)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    assert ((torch.cat(method.targets) > 0).sum(dim=1) == 2).any()
    # The record is of the first of two epochs. An answer is correct if it names the class with the larger share.
    right = [answers == targets.argmax(dim=1) for answers, targets in zip(method.answers, method.targets, strict=True)]
    assert record.train_accuracy == pytest.approx(100 * torch.cat(right[:3]).double().mean().item())


@pytest.mark.parametrize("accumulate", [2, 8])
def test_mixed_images_do_not_depend_on_the_parts_of_a_step(accumulate: int) -> None:
    (whole, _, whole_method, _), (parts, _, method, _) = mixed_run(), mixed_run(accumulate=accumulate)
    assert torch.equal(torch.cat(parts.shown), torch.cat(whole.shown))
    assert torch.equal(torch.cat(method.targets), torch.cat(whole_method.targets))


@pytest.mark.parametrize("settings", [{}, MIXING], ids=["plain", "mixed"])
def test_an_accumulated_step_has_the_gradient_of_the_whole_batch(settings: dict[str, Any]) -> None:
    states = []
    for accumulate in (1, 4):
        trainer = make_trainer(linear_model(), config=make_config(accumulate=accumulate, **settings))
        trainer.train()
        states.append(trainer.network.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)


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


class Constant(CrossEntropy):
    """A method whose loss at step ``n`` is ``n``."""

    steps = 0

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        self.steps += 1
        loss = 0 * student.logits.sum() + self.steps
        return loss, {"double": 2 * loss.detach()}


class Noted(Observer):
    """Keeps every report."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.epochs: list[EpochRecord] = []
        self.broken: list[str] = []

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_epoch(self, record: EpochRecord, network: Network, trained: Network) -> None:
        self.epochs.append(record)

    def on_broken(self, messages: Any) -> None:
        self.broken += messages


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


def test_a_signal_saves_the_run_at_the_end_of_its_step() -> None:
    interruption, saved = Interruption(), []

    class Signal(Observer):
        def on_step(self, report: StepReport) -> None:
            interruption.number = 15 if report.step == 2 else 0

    trainer = make_trainer(observer=Signal(), interruption=interruption, save=lambda state: saved.append(state))
    with pytest.raises(Interrupted, match="SIGTERM"):
        trainer.train()
    assert [(state["epoch"], state["step"]) for state in saved] == [(1, 3)]


def test_a_signal_does_not_wait_for_the_next_check_of_the_loss() -> None:
    interruption, saved = Interruption(), []

    class SignalInStep2(CrossEntropy):
        def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
            interruption.number = 15 if round(samples.epochs * trainer.steps) == 1 else 0
            return super().forward(student, teacher, samples)

    trainer = make_trainer(method=SignalInStep2(), interruption=interruption, save=lambda state: saved.append(state))
    trainer.unchecked = 50
    with pytest.raises(Interrupted, match="SIGTERM"):
        trainer.train()
    assert [(state["epoch"], state["step"]) for state in saved] == [(1, 2)]


@pytest.mark.parametrize(("device", "minutes", "steps"), [("cpu", 10.0, 1), ("cuda", 10.0, 50), ("cuda", 0.0, 1)])
def test_a_gpu_is_not_waited_for_in_every_step_unless_every_step_is_saved(device: str, minutes: float, steps: int) -> None:
    assert engine.steps_unchecked(torch.device(device), make_config(checkpoint_minutes=minutes)) == steps


def test_a_broken_image_is_left_out_reported_and_counted() -> None:
    noted = Noted()
    splits = tiny_splits(TinySplit(broken=(4, 11)))
    (record,) = make_trainer(splits=splits, observer=noted, config=make_config(epochs=1, batch_size=10)).train()
    assert sorted(noted.broken) == ["image 11 is broken", "image 4 is broken"]
    assert record.skipped == 2


def test_a_broken_image_stops_a_strict_run() -> None:
    config = make_config(strict_data=True, batch_size=10)
    with pytest.raises(UnreadableImageError, match="image 4 is broken"):
        make_trainer(splits=tiny_splits(TinySplit(broken=(4,))), config=config).train()


def test_an_epoch_without_a_readable_image_stops_the_run() -> None:
    with pytest.raises(UnreadableImageError, match="no image of epoch 1 could be read"):
        make_trainer(splits=tiny_splits(TinySplit(broken=tuple(range(30))))).train()


@pytest.mark.parametrize("broken", [(4,), (0, 4, 11, 12, 13, 29), tuple(range(20))], ids=len)
@pytest.mark.parametrize("accumulate", [2, 8])
def test_parts_are_weighted_by_their_images_so_that_the_step_is_that_of_the_whole_batch(
    accumulate: int, broken: tuple[int, ...]
) -> None:
    trainers = []
    for parts in (1, accumulate):
        config = make_config(accumulate=parts)
        trainers.append(make_trainer(linear_model(), config=config, splits=tiny_splits(TinySplit(broken=broken))))
        trainers[-1].train()
    whole, in_parts = trainers
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(in_parts.network.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    for one, other in zip(whole.records, in_parts.records, strict=True):
        assert other.skipped == one.skipped
        assert other.train_accuracy == pytest.approx(one.train_accuracy)
        assert (other.loss, other.terms["ce"]) == pytest.approx((one.loss, one.terms["ce"]), rel=1e-5)


def test_parts_of_unequal_size_are_weighted_by_their_images_too() -> None:
    # 7 images in 4 parts are 2, 2, 2 and 1.
    states = []
    for accumulate in (1, 4):
        few = TinySplit(torch.arange(7) % 3)
        trainer = make_trainer(linear_model(), config=make_config(accumulate=accumulate), splits=tiny_splits(few))
        trainer.train()
        states.append(trainer.network.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)


def test_a_step_without_any_image_changes_nothing_and_the_run_continues() -> None:
    student, before, changed = linear_model(), list[Tensor](), list[bool]()

    class Watch(Observer):
        def on_step(self, report: StepReport) -> None:
            weight = student[1].weight.detach().clone()
            changed.append(not before or not torch.equal(weight, before[-1]))
            before.append(weight)

    broken = tuple(range(1, 30, 2))
    config = make_config(batch_size=1, epochs=1, ema_decay=0.5)
    trainer = make_trainer(student, config=config, splits=tiny_splits(TinySplit(broken=broken)), observer=Watch())
    (record,) = trainer.train()
    assert record.skipped == 15
    assert sum(changed) == 15
    assert trainer.average.updates == 15


def test_broken_images_of_validation_and_test_are_left_out_named_and_counted() -> None:
    noted = Noted()
    splits = tiny_splits(None, TinySplit(broken=(1, 2)), TinySplit(broken=(5,)))
    (record,) = make_trainer(splits=splits, observer=noted, config=make_config(epochs=1)).train()
    assert noted.broken == ["image 1 is broken", "image 2 is broken", "image 5 is broken"]
    assert (record.skipped, record.validation_skipped, record.test_skipped) == (0, 2, 1)


@pytest.mark.parametrize("place", [1, 2])
def test_a_broken_image_of_any_split_stops_a_strict_run(place: int) -> None:
    splits = [None, None, None]
    splits[place] = TinySplit(broken=(3,))
    with pytest.raises(UnreadableImageError, match="strict_data: image 3 is broken"):
        make_trainer(splits=tiny_splits(*splits), config=make_config(strict_data=True)).train()


def test_a_split_without_a_readable_image_has_no_accuracy() -> None:
    nothing = TinySplit(broken=tuple(range(30)))
    with pytest.raises(UnreadableImageError, match="none of the 30 images of a split could be read"):
        accuracy(Network(linear_model(), 3), nothing, make_config(), CPU, Processes(), lambda messages: None)


def test_a_broken_image_that_is_not_reported_otherwise_causes_a_warning() -> None:
    with pytest.warns(UserWarning, match="left out: image 7 is broken"):
        accuracy(Network(linear_model(), 3), TinySplit(broken=(7,)), make_config(), CPU, Processes())


class TwoStages(KnowledgeDistillation):
    """kd after a stage that trains a head on the teacher's logits; records the calls of both stages."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.seen: list[tuple[str, float, bool]] = []

    @property
    def first_stage(self) -> Stage:
        return Stage(epochs=2, learning_rate=0.1, milestones=(1,))

    def first_stage_parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def first_stage_loss(self, teacher: Output, samples: Samples) -> tuple[Tensor, Terms]:
        self.seen.append(("first", samples.epochs, self.head.weight.requires_grad))
        loss = nn.functional.cross_entropy(self.head(teacher.logits), samples.target)
        return loss, {"head": loss.detach()}

    def forward(self, student: Output, teacher: Output | None, samples: Samples) -> tuple[Tensor, Terms]:
        self.seen.append(("main", samples.epochs, self.head.weight.requires_grad))
        return super().forward(student, teacher, samples)


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


def test_a_run_is_not_resumed_under_a_teacher_of_other_weights() -> None:
    def new(seed: int) -> Trainer:
        return make_trainer(method=KnowledgeDistillation(), teacher=tiny_model(seed))

    state = new(1).state()
    new(1).load_state(state)
    with pytest.raises(ValueError, match="resume: the teacher has other weights than the one that has taught the run"):
        new(2).load_state(state)
    # A state from before teachers were compared.
    del state["teacher"]  # type: ignore[misc]
    new(2).load_state(state)


@pytest.mark.parametrize("stop", range(1, 18))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema_decay": 0.9, "accumulate": 2},
        {"optimizer": "adamw", "decay_norms_and_biases": False, "clip_norm": 0.1, "warmup_steps": 5, "ema_decay": 0.9},
        {"mixup": 0.4, "cutmix": 1.0, "batch_size": 6, "accumulate": 2},
    ],
    ids=["plain", "average and parts", "adamw, clipped, warm-up in steps", "mixed and odd parts"],
)
def test_a_run_resumed_from_any_step_ends_with_the_same_bits(stop: int, settings: dict[str, Any], tmp_path: Path) -> None:
    config = make_config(epochs=4, checkpoint_minutes=0.0, **settings)
    saved: list[Path] = []

    def save(state: State) -> None:
        saved.append(tmp_path / f"{len(saved)}.pt")
        torch.save(state, saved[-1])

    def new(save: Callable[[State], None]) -> Trainer:
        return make_trainer(tiny_model(), config=config, method=TwoStages(), teacher=tiny_model(1), save=save)

    whole = new(save)
    whole.train()
    resumed = new(lambda state: None)
    torch.manual_seed(99)
    resumed.load_state(torch.load(saved[stop - 1], weights_only=True))
    records = resumed.train()
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(resumed.learner.state_dict()[name], value), name
    for name, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value), name
    expected = [(record.loss, record.terms, record.test_accuracy, record.train_accuracy) for record in whole.records]
    assert [(record.loss, record.terms, record.test_accuracy, record.train_accuracy) for record in records] == expected
