"""A signal saves the run after its step, and a resumed run ends with the bits of one that was never stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TwoStages, make_config, make_trainer, tiny_model
from torch import Tensor

from training.loop import engine
from training.loop.engine import Trainer
from training.loop.interruption import Interrupted, Interruption
from training.methods import Samples, Terms
from training.methods.ce import CrossEntropy
from training.methods.kd import KnowledgeDistillation
from training.models import Output
from training.observer import Observer, StepReport
from training.state import State


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
