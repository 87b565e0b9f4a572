"""A trainer on 30 tiny images, and students and observers that record what they are shown."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.config import Config
from training.data.identity import Identity
from training.data.splits import Batch, Split, Splits, View
from training.loop import engine
from training.loop.distributed import Processes
from training.loop.engine import Trainer
from training.loop.interruption import Interruption
from training.loop.teacher import Teacher
from training.methods import Method, Samples, Stage, Terms
from training.methods.ce import CrossEntropy
from training.methods.kd import KnowledgeDistillation
from training.models import Network, Output
from training.observer import Observer, StepReport
from training.state import EpochRecord, State

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
