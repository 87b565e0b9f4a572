"""A step in several micro-batches has the images and the gradient of the whole batch, also with mixed or missing images."""

from typing import Any

import pytest
import torch
from tiny_training import Recorded, TinySplit, linear_model, make_config, make_trainer, recorded_run, tiny_splits
from torch import Tensor

from training.methods import Samples, Terms
from training.methods.kd import KnowledgeDistillation
from training.models import Output
from training.state import EpochRecord


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
