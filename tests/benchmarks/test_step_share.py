"""The share of the loss in a training step: what is timed as step and as loss, and the table of the shares."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from benchmarks import step_share
from benchmarks.step_share import (
    IMAGENET,
    LEARNING_RATE,
    SETTINGS,
    RepeatedStep,
    Setting,
    Share,
    fits,
    make_config,
    make_trainers,
    table,
)
from benchmarks.timing import Spread
from training.loop.tally import means
from training.methods import METHODS
from training.models import Output

TINY = Setting("cifar", "cnn_tiny", "cnn_small", batch_size=6, image_size=8, classes=5, samples=20)
READ_FEATURES = ("rkd", "crd", "sskd")


def tiny_trainers(setting: Setting = TINY) -> dict[str, RepeatedStep]:
    torch.manual_seed(0)
    return make_trainers(setting, "cpu")


def stepped_trainer(method: str, setting: Setting = TINY) -> RepeatedStep:
    """A trainer after its first step, without the gradients of that step."""
    trainer = tiny_trainers(setting)[method]
    trainer.take_step()
    trainer.phase.optimizer.zero_grad(set_to_none=True)
    return trainer


def read_outputs(trainer: RepeatedStep) -> Output:
    """The output of the student that ``loss_alone`` gives to the method, after one call."""
    seen: list[Output] = []
    handle = trainer.learner.method.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    trainer.loss_alone()
    handle.remove()
    return seen[0]


def seen_images(network: nn.Module, act: Callable[[], object]) -> list[int]:
    """How many images ``network`` is given in each of its forward passes while ``act`` runs."""
    counts: list[int] = []
    handle = network.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    act()
    handle.remove()
    return counts


def rendered(shares: list[Share]) -> str:
    console = Console(width=400)
    with console.capture() as capture:
        console.print(table(shares))
    return " ".join(capture.get().split())


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_alone_is_the_loss_of_the_step(method: str) -> None:
    trainer = tiny_trainers()[method]
    banks = copy.deepcopy(trainer.learner.method.state_dict())
    # crd draws its negatives at random.
    torch.manual_seed(1)
    trainer.take_step()
    trainer.learner.method.load_state_dict(banks)
    torch.manual_seed(1)
    assert trainer.loss_alone().item() == pytest.approx(means(trainer.tally.totals()).loss, rel=1e-6)


def test_the_loss_alone_without_a_step_before_it_is_refused() -> None:
    with pytest.raises(RuntimeError, match="call take_step before loss_alone"):
        tiny_trainers()["kd"].loss_alone()


@pytest.mark.parametrize("method", METHODS)
def test_the_backward_pass_of_the_loss_alone_ends_at_the_outputs_and_heads(method: str) -> None:
    trainer = stepped_trainer(method)
    outputs = read_outputs(trainer)
    assert outputs.logits.grad is not None
    assert (outputs.features is not None) == (method in READ_FEATURES)
    assert outputs.features is None or outputs.features.grad is not None
    heads = [parameter for parameter in trainer.learner.method.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in heads)
    assert all(parameter.grad is None for parameter in trainer.learner.student.parameters())


def test_every_call_of_the_loss_alone_starts_without_gradients() -> None:
    trainer = stepped_trainer("sskd")
    head = trainer.learner.method.student_head
    trainer.loss_alone()
    first = [parameter.grad.clone() for parameter in head.parameters()]
    trainer.loss_alone()
    assert all(torch.equal(parameter.grad, once) for parameter, once in zip(head.parameters(), first, strict=True))


def test_the_bank_is_updated_by_the_loss_alone() -> None:
    trainer = stepped_trainer("crd")
    bank = trainer.learner.method.student_bank
    before = bank.vectors.clone()
    trainer.loss_alone()
    changed = (bank.vectors != before).any(dim=1).nonzero()[:, 0]
    assert sorted(changed.tolist()) == sorted(trainer.repeated.index.tolist())


@pytest.mark.parametrize("method", METHODS)
def test_a_step_trains_student_and_heads_and_nothing_else(method: str) -> None:
    trainer = tiny_trainers()[method]
    trainer.take_step()
    own = trainer.learner.method
    frozen = {id(parameter) for parameter in own.first_stage_parameters()}
    trained = [*trainer.learner.student.parameters(), *(each for each in own.parameters() if id(each) not in frozen)]
    moved = [each for each, state in trainer.phase.optimizer.state.items() if state["momentum_buffer"] is not None]
    assert {id(each) for each in moved} == {id(each) for each in trained}
    assert trainer.phase.name == "main"


@pytest.mark.parametrize(
    ("method", "student_sees", "teacher_sees"), [("ce", [6], []), ("kd", [6], [6]), ("crd", [6], [6]), ("sskd", [24], [24])]
)
def test_a_step_gives_the_networks_the_images_that_the_method_needs(
    method: str, student_sees: list[int], teacher_sees: list[int]
) -> None:
    trainers = tiny_trainers()
    # All methods share one teacher, so that its passes also show for a method that must not have any.
    kd_teacher = trainers["kd"].teacher
    assert kd_teacher is not None
    trainer = trainers[method]
    assert seen_images(trainer.learner.student, trainer.take_step) == student_sees
    assert seen_images(kd_teacher.network, trainer.take_step) == teacher_sees


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_alone_does_not_run_the_networks(method: str) -> None:
    trainer = stepped_trainer(method)
    assert seen_images(trainer.learner.student, trainer.loss_alone) == []
    assert trainer.teacher is None or seen_images(trainer.teacher.network, trainer.loss_alone) == []


def test_all_methods_share_the_same_networks() -> None:
    trainers = tiny_trainers().values()
    assert len({id(trainer.learner.student) for trainer in trainers}) == 1
    assert len({id(trainer.teacher) for trainer in trainers if trainer.teacher is not None}) == 1


def test_repeated_steps_hardly_move_the_weights() -> None:
    trainers = tiny_trainers()
    before = [parameter.clone() for parameter in trainers["ce"].learner.student.parameters()]
    for trainer in trainers.values():
        for _ in range(5):
            trainer.take_step()
        assert math.isfinite(trainer.tally.totals()["loss"])
    for parameter, old in zip(trainers["ce"].learner.student.parameters(), before, strict=True):
        # 5 steps of each of 8 methods, with Nesterov momentum 0.9, move a weight by at most 135 learning rates of 1e-9 times
        # its largest gradient, which is 75.
        assert (parameter - old).abs().max() <= 135 * LEARNING_RATE * 75


def test_in_lower_precision_the_loss_alone_starts_at_the_outputs_in_float32() -> None:
    trainer = stepped_trainer("crd", replace(TINY, precision="bf16"))
    outputs = read_outputs(trainer)
    dtypes: list[torch.dtype] = []
    convolution = next(module for module in trainer.learner.student.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    trainer.take_step()
    assert dtypes == [torch.bfloat16]
    assert outputs.features is not None
    assert (outputs.logits.dtype, outputs.features.dtype) == (torch.float32, torch.float32)
    assert outputs.logits.is_leaf
    assert outputs.features.is_leaf


def test_banks_hold_every_sample_of_the_training_split() -> None:
    trainer = tiny_trainers(replace(TINY, samples=50_000))["crd"]
    assert trainer.learner.method.student_bank.vectors.shape[0] == 50_000
    assert SETTINGS["cpu"].samples == 50_000


@pytest.mark.parametrize("device", SETTINGS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_recipe_on_every_device(method: str, device: str) -> None:
    config = make_config(method, SETTINGS[device])
    assert (config.method, config.student) == (method, SETTINGS[device].student)
    assert config.batch_size == SETTINGS[device].batch_size


def test_methods_have_the_settings_of_the_preset() -> None:
    assert make_config("dkd", IMAGENET).settings == {"temperature": 1.0, "beta": 0.5, "warmup_epochs": 1}


def test_every_method_is_measured() -> None:
    shares = step_share.measure("cpu", 0.0, TINY)
    assert [share.method for share in shares] == list(METHODS)
    assert all(value > 0 for share in shares for spread in (share.step, share.loss, share.share) for value in spread)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Made-up times in place of measured ones, by the names of the timed steps in their order."""
    given: dict[str, list[float]] = {}

    def interleaved(steps: Mapping[str, object], **_: object) -> dict[str, list[float]]:
        for name in steps:
            given[name] = [2.0, 4.0, 8.0] if name.endswith("step") else [1.0, 3.0, 1.0]
        return given

    monkeypatch.setattr(step_share, "interleaved", interleaved)
    return given


def test_the_share_is_of_neighbouring_repetitions(times: dict[str, list[float]]) -> None:
    share = step_share.measure("cpu", 0.0, TINY)[0]
    assert share == Share("ce", Spread(3.0, 4.0, 6.0), Spread(1.0, 1.0, 2.0), Spread(0.3125, 0.5, 0.625))


def test_the_loss_of_a_method_is_timed_right_after_its_step(times: dict[str, list[float]]) -> None:
    step_share.measure("cpu", 0.0, TINY)
    assert list(times) == [f"{method} {timed}" for method in METHODS for timed in ("step", "loss")]


def test_what_is_timed_is_the_step_and_the_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    trainers = tiny_trainers()
    seen: dict[str, list[int]] = {}

    def interleaved(steps: Mapping[str, Callable[[], object]], **_: object) -> dict[str, list[float]]:
        for name, step in steps.items():
            seen[name] = seen_images(trainers["ce"].learner.student, step)
        return {name: [1.0] for name in steps}

    monkeypatch.setattr(step_share, "make_trainers", lambda setting, device: trainers)
    monkeypatch.setattr(step_share, "interleaved", interleaved)
    step_share.measure("cpu", 0.0, TINY)
    for method in METHODS:
        assert seen[f"{method} step"] == ([24] if method == "sskd" else [6])
        assert seen[f"{method} loss"] == []


def out_of_memory() -> None:
    raise torch.OutOfMemoryError


def test_a_step_without_memory_for_it_does_not_fit() -> None:
    trainer = tiny_trainers()["sskd"]
    assert fits(trainer)
    trainer.take_step = out_of_memory  # type: ignore[method-assign]
    assert not fits(trainer)


def test_a_method_that_does_not_fit_into_the_gpu_is_left_out(
    times: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers = tiny_trainers()
    trainers["sskd"].take_step = out_of_memory  # type: ignore[method-assign]
    monkeypatch.setattr(step_share, "make_trainers", lambda setting, device: trainers)
    assert [share.method for share in step_share.measure("cuda", 0.0, TINY)] == [name for name in METHODS if name != "sskd"]


def test_the_table_is_in_milliseconds_and_percent() -> None:
    text = rendered([Share("kd", Spread(0.1, 0.25, 0.3), Spread(0.001, 0.0015, 0.002), Spread(0.005, 0.0062, 0.0071))])
    assert "│ kd │ 250 │ 1.5 │ 0.62 % (0.5 to 0.71) │" in text


def test_the_table_names_the_methods_that_are_missing() -> None:
    spread = Spread(1.0, 1.0, 1.0)
    shares = [Share(method, spread, spread, spread) for method in METHODS]
    assert "Left out" not in rendered(shares)
    assert "Left out for lack of memory: sskd." in rendered([share for share in shares if share.method != "sskd"])


def test_the_table_states_that_passes_over_rotated_images_count_as_step_and_not_as_loss() -> None:
    assert "over rotated images count as step, not as loss" in rendered([])
