"""The settings of one training run, and their checks."""

import math
from dataclasses import dataclass
from pathlib import Path

from training.data import DATASETS
from training.methods import METHODS
from training.models import MODELS


@dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        dataset: name of a data set: digits100, fashion_mnist or cifar100.
        data: folder that holds the files of fashion_mnist or cifar100; digits100 needs none.
        method: ce (no teacher), kd or bickd.
        student: name of the model that is trained.
        teacher: name of the teacher's model; the checkpoint must hold this one. Without it any model is accepted.
        teacher_checkpoint: the teacher, a checkpoint.pt of a run with method ce; every method but ce needs it.
        epochs: passes over the training split.
        batch_size: samples a step.
        learning_rate: of SGD with momentum, at the start of its cosine decay to 0.
        momentum: of SGD with Nesterov momentum.
        weight_decay: of SGD, on all parameters.
        seed: from 0 to 2^32 - 1, of the weights, the order of the samples and their augmentation.
        output: folder of the run's results.
    """

    dataset: str = "digits100"
    data: Path = Path("data")
    method: str = "bickd"
    student: str = "cnn_small"
    teacher: str | None = None
    teacher_checkpoint: Path | None = None
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    output: Path = Path("runs/latest")

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dataset", self.dataset, DATASETS),
            ("method", self.method, METHODS),
            ("student", self.student, MODELS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(sorted(known))}, got {value!r}")
        if self.teacher is not None and self.teacher not in MODELS:
            raise ValueError(f"teacher must be one of {', '.join(sorted(MODELS))}, got {self.teacher!r}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        # From 2^32 on, the order of the samples would repeat the augmentation of a smaller seed.
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2^32), got {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative, got {self.weight_decay}")
        if METHODS[self.method].needs_teacher and self.teacher_checkpoint is None:
            raise ValueError(f"teacher_checkpoint must be given for method {self.method!r}, got None")
        for name in ("teacher", "teacher_checkpoint"):
            if not METHODS[self.method].needs_teacher and getattr(self, name) is not None:
                raise ValueError(f"{name} must be left out for method {self.method!r}, which has no teacher")
