"""The loss's share of a training step, for every method of the suite, with networks and batches from the literature.

The step is the trainer's own step on one batch: the teacher's forward pass if the method has a teacher, the student's
forward pass, the loss, the backward pass through all of it, and the optimizer step. It excludes reading, augmenting and
copying images (the batch is already on the device), the loop's check that the loss is finite, a cache of the teacher's
logits, and a method's first stage.

The loss is the same method, called with the inputs of a step: forward, and backward down to the student's outputs, which are
leaves here. These are logits in float32, after the cast from a lower precision, and pooled features if the method reads
them. The gradients of heads count as loss, their optimizer update as step.

    ce    no teacher: its loss is a share of a shorter step
    kd, dkd, dist, bickd
          logits only; bickd as the public function, with its argument checks
    rkd   features; the relations among them in float64
    crd   embeddings of both networks' features, sampling of negatives, both memory banks and their update
    sskd  heads, similarities and divergences of upright and rotated images together, 4 B of them. Rotating the images, and
          running both networks on 4 B images instead of B, count as step, not as loss

On a GPU, the loss alone waits for its launches, which a step hides behind the networks: there the share is an upper bound.
Weights and images are random. All methods share student, teacher and batch; each has its own heads and banks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.timing import Spread, Step, interleaved, ratios, spread
from training.config import Config
from training.data import Batch, Identity, Split, Splits, View
from training.loop.distributed import Processes
from training.loop.engine import Trainer, build
from training.loop.interruption import Interruption
from training.loop.teacher import Teacher
from training.methods import METHODS, Method, Samples
from training.models import Network, Output, make_model
from training.observer import Observer
from training.presets import PRESETS
from training.run import make_student, set_up_method

LEAST_REPETITIONS = 2
"""Minimum repetitions of all methods' steps, which take a quarter of a minute on two CPU cores."""

LEARNING_RATE = 1e-9
"""So small that weights do not change: repeated on one batch of noise, steps of the recipe's size would lead to non-finite
numbers, or to subnormal ones, which are slower."""

CAPTION = (
    "step: teacher (none for ce), student, loss, backward, optimizer. loss: the method alone, forward and backward down to "
    "the networks' outputs, with heads, memory banks and sampling of negatives. sskd: the passes of both networks over "
    "rotated images count as step, not as loss. share: median and quartiles of the ratios of neighbouring repetitions; on a "
    "GPU an upper bound, because a step hides the launches that the loss alone waits for."
)


@dataclass(frozen=True)
class Setting:
    """Networks, batch and recipe of a step.

    Attributes:
        preset: name of the recipe in ``training.presets``, with its method settings.
        student: name of a model.
        teacher: name of a model.
        batch_size: images.
        image_size: pixels per side; images have 3 channels.
        classes: number of logits.
        samples: size of the training split, which determines the size of memory banks.
        precision: of the networks, ``"float32"``, ``"bf16"`` or ``"fp16"``.
    """

    preset: str
    student: str
    teacher: str
    batch_size: int
    image_size: int
    classes: int
    samples: int
    precision: str = "float32"

    def __str__(self) -> str:
        images = f"{self.batch_size} x 3 x {self.image_size} x {self.image_size}"
        return f"{self.student} under {self.teacher}, {images}, {self.classes} classes, {self.precision}"


CIFAR = Setting("cifar", "resnet8x4", "resnet32x4", batch_size=64, image_size=32, classes=100, samples=50_000)
IMAGENET = Setting(
    "imagenet", "resnet18", "resnet34", batch_size=256, image_size=224, classes=1000, samples=1_281_167, precision="bf16"
)
SETTINGS = {"cpu": CIFAR, "cuda": IMAGENET}
"""Settings by device."""


@dataclass(frozen=True)
class Share:
    """The share of a method's loss in its training step."""

    method: str
    step: Spread
    """Seconds."""
    loss: Spread
    """Seconds for the loss alone, forward and backward."""
    share: Spread
    """Ratios of ``loss`` to ``step``, over the repetitions."""


class Noise(Split):
    """Random images ``(B, 3, height, width)``, generated when loaded; labels cycle through the classes."""

    def __init__(self, setting: Setting) -> None:
        self.labels = torch.arange(setting.samples) % setting.classes
        self.size = setting.image_size

    def load(self, index: Tensor, view: View | None = None) -> Batch:
        return Batch(torch.randn(len(index), 3, self.size, self.size), self.labels[index], index)


class RepeatedStep(Trainer):
    """A trainer that repeats one training step of the student on the same batch.

    Args:
        config: the recipe.
        splits: the training split determines the number of steps per epoch.
        student: is trained in place.
        method: the loss; set up for student and teacher.
        teacher: None for a method without one.
        repeated: the batch, on ``device``.
        device: of student, method and teacher.
    """

    def __init__(
        self,
        config: Config,
        splits: Splits,
        student: Network,
        method: Method,
        teacher: Teacher | None,
        repeated: Batch,
        device: torch.device,
    ) -> None:
        super().__init__(
            config, splits, student, method, teacher, device, Processes(), Observer(), lambda state: None, Interruption()
        )
        if self.phase.stage is not None:
            self.phase = self._begin(None)
        self.repeated = repeated
        self.learner.train()
        self.inputs: tuple[Output, Output | None, Samples] | None = None
        self.keeping = method.register_forward_pre_hook(self._keep)

    def take_step(self) -> None:
        """Runs one step, from the images to the updated weights."""
        self.train_step(iter([self.repeated]), View(self.config.seed, 0))

    def loss_alone(self) -> Tensor:
        """The loss of the first step's network outputs, after a backward pass to these outputs and the heads.

        Raises:
            RuntimeError: no step has been taken.
        """
        if self.inputs is None:
            raise RuntimeError("call take_step before loss_alone, which reuses its network outputs")
        student, teacher, samples = self.inputs
        for leaf in (*student, *self.learner.method.parameters()):
            if leaf is not None:
                leaf.grad = None
        loss, _ = self.learner.method(student, teacher, samples)
        loss.backward()
        return loss.detach()

    def _keep(self, method: nn.Module, inputs: tuple[Output, Output | None, Samples]) -> None:
        """Keeps the method's inputs in the first step, with the student's output as leaves."""
        self.keeping.remove()
        student, teacher, samples = inputs
        logits = student.logits.detach().requires_grad_()
        features = None if student.features is None else student.features.detach().requires_grad_()
        self.inputs = Output(logits, features), teacher, samples


def measure(device: str, seconds: float, setting: Setting | None = None) -> list[Share]:
    """The share of every method, in the order of ``METHODS``; all steps and losses are interleaved.

    Args:
        device: ``"cpu"`` or ``"cuda"``. Methods whose step does not fit into GPU memory are left out.
        seconds: duration of all repetitions, after two warm-up rounds of all methods; there are at least
            ``LEAST_REPETITIONS``.
        setting: by default the one of ``SETTINGS``.
    """
    trainers = make_trainers(SETTINGS[device] if setting is None else setting, device)
    if device != "cpu":
        trainers = {name: trainer for name, trainer in trainers.items() if fits(trainer)}
    steps: dict[str, Step] = {}
    for name, trainer in trainers.items():
        steps[f"{name} step"], steps[f"{name} loss"] = trainer.take_step, trainer.loss_alone
    times = interleaved(steps, seconds=seconds, least=LEAST_REPETITIONS, device=device)
    return [_share(name, times) for name in trainers]


def table(shares: list[Share], title: str = "Share of the loss in a training step") -> Table:
    """Milliseconds and percent, one row per method; the caption says what is counted and which methods are missing."""
    missing = [name for name in METHODS if name not in {share.method for share in shares}]
    left_out = f" Left out for lack of memory: {', '.join(missing)}." if missing else ""
    result = Table(title=title, caption=CAPTION + left_out, caption_justify="left")
    result.add_column("method")
    for heading in ("step ms", "loss ms", "share of the step"):
        result.add_column(heading, justify="right")
    for share in shares:
        low, median, high = (100 * ratio for ratio in share.share)
        milliseconds = (f"{1e3 * times.median:.4g}" for times in (share.step, share.loss))
        result.add_row(share.method, *milliseconds, f"{median:.3g} % ({low:.3g} to {high:.3g})")
    return result


def make_trainers(setting: Setting, device: str) -> dict[str, RepeatedStep]:
    """The trainers by method; they share student, teacher and batch."""
    place = torch.device(device)
    train = Noise(setting)
    splits = Splits(train, None, train, setting.classes, 3, "noise", Identity((), {}))
    configs = {name: make_config(name, setting) for name in METHODS}
    student = make_student(configs["ce"], splits, place)
    teacher = make_teacher(setting, configs["ce"].seed, place)
    images, labels, index, *_ = train.load(torch.randperm(setting.samples)[: setting.batch_size])
    batch = Batch(images.to(place), labels.to(place), index.to(place))
    trainers = {}
    for name, config in configs.items():
        own = teacher if METHODS[name].needs_teacher else None
        method = set_up_method(config, splits, student, own)
        trainers[name] = RepeatedStep(config, splits, student, method, own, batch, place)
    return trainers


def make_config(method: str, setting: Setting) -> Config:
    """The recipe of ``setting`` with its settings for ``method``."""
    preset = PRESETS[setting.preset]
    recipe: dict[str, Any] = {
        **preset.config,
        "method": method,
        "settings": preset.settings.get(method, {}),
        "student": setting.student,
        "batch_size": setting.batch_size,
        "learning_rate": LEARNING_RATE,
        "precision": setting.precision,
        "workers": 0,
    }
    if METHODS[method].needs_teacher:
        # A run must name a checkpoint; nothing reads it, because the trainer gets its teacher directly.
        recipe["teacher_checkpoint"] = Path("random weights")
    return Config(**recipe)


def make_teacher(setting: Setting, seed: int, device: torch.device) -> Teacher:
    """A teacher with random weights and unknown accuracy."""
    model = build(lambda: make_model(setting.teacher, 3, setting.classes), seed)
    return Teacher(Network(model, setting.classes).to(device), math.nan, setting.precision)


def fits(trainer: RepeatedStep) -> bool:
    """Whether the trainer's step fits into memory; runs one step."""
    try:
        trainer.take_step()
    except torch.OutOfMemoryError:
        return False
    return True


def _share(method: str, times: Mapping[str, list[float]]) -> Share:
    step, loss = times[f"{method} step"], times[f"{method} loss"]
    return Share(method, spread(step), spread(loss), spread(ratios(loss, step)))
