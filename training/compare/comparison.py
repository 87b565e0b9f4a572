"""The settings of a comparison, and their checks."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.compare.variants import Variant, parse_variant
from training.config import Config

TEACHER_SEED = 100
TUNING_SEED = 1000
MOST_SEEDS = 100
"""Report seeds stay below the teacher's and the tuning seed."""


@dataclass(frozen=True)
class Comparison:
    """Methods under one protocol.

    What is a field of ``training.config.Config`` as well has its meaning and its default, and holds for every run.

    Attributes:
        dataset: digits100, fashion100, fashion_mnist, cifar10, cifar100, imagenet, or folder:PATH with train/ and val/.
        data: folder that holds the files of the data set; digits100 needs none.
        held_out: share of the training samples that is held out for validation, 0 for none; each data set has a default.
        image_size: pixels a side that images of imagenet and folder:PATH are cropped to; 224 without it.
        teacher: name of the teacher's model.
        student: name of the students' model.
        teacher_checkpoint: a trained teacher, checkpoint.pt or a state_dict; without it one is trained.
        teacher_epochs: of training the teacher; as many as a student's without it.
        methods: variants, each METHOD or METHOD:NAME=VALUE,NAME=VALUE, such as bickd:class_wise_weight=0.
        seeds: number of runs of each variant, from 1 to 100; their seeds are 0, 1, ...
        tune: trials for each variant, judged by the last epoch's validation accuracy; 0 for none, else at least 2.
        jobs: runs at a time; they share the processor's cores.
        epochs: passes over the training split.
        batch_size: samples a step of the optimizer.
        accumulate: parts that a step's samples are computed in, one after the other, to save memory.
        learning_rate: of SGD with momentum, at the start of its schedule.
        momentum: of SGD with Nesterov momentum.
        weight_decay: of SGD, on all parameters.
        schedule: cosine, to 0 at the end, or step, a division by 10 after each of the milestones.
        milestones: epochs after which the step schedule divides the learning rate.
        warmup_epochs: epochs of a linear rise of the learning rate before its schedule.
        label_smoothing: of the cross-entropy, in [0, 1).
        ema_decay: decay a step of an exponential moving average of the weights, which is then evaluated; 0 for none.
        precision: float32, bf16, or fp16 with a gradient scaler; losses are float32 at least.
        channels_last: store images and weights with the channels last in memory.
        compile: run student and teacher through torch.compile.
        device: auto, cpu, cuda or cuda:N; auto takes the GPU where there is one.
        workers: processes of each run that read and augment images; 0 does it in the training process.
        output: folder of the comparison.

    Raises:
        ValueError: names the argument, what it got and what is allowed.
    """

    dataset: str = Config.dataset
    data: Path = Config.data
    held_out: float | None = Config.held_out
    image_size: int | None = Config.image_size
    teacher: str = "cnn_large"
    student: str = Config.student
    teacher_checkpoint: Path | None = None
    teacher_epochs: int | None = None
    methods: tuple[str, ...] = ("ce", "kd", "bickd")
    seeds: int = 3
    tune: int = 0
    jobs: int = 1
    epochs: int = Config.epochs
    batch_size: int = Config.batch_size
    accumulate: int = Config.accumulate
    learning_rate: float = Config.learning_rate
    momentum: float = Config.momentum
    weight_decay: float = Config.weight_decay
    schedule: str = Config.schedule
    milestones: tuple[int, ...] = Config.milestones
    warmup_epochs: int = Config.warmup_epochs
    label_smoothing: float = Config.label_smoothing
    ema_decay: float = Config.ema_decay
    precision: str = Config.precision
    channels_last: bool = Config.channels_last
    compile: bool = Config.compile
    device: str = Config.device
    workers: int = Config.workers
    output: Path = Path("runs/comparison")

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("methods must name at least one method, got none")
        twice = sorted({label for label in self.methods if self.methods.count(label) > 1})
        if twice:
            raise ValueError(f"methods must be different from each other, got {', '.join(twice)} more than once")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise ValueError(f"seeds must be a number of seeds in [1, {MOST_SEEDS}], got {self.seeds}")
        if self.tune < 0 or self.tune == 1:
            raise ValueError(f"tune must be 0 or at least 2 trials, the first being the literature's, got {self.tune}")
        if self.tune and self.held_out == 0:
            raise ValueError("tune needs a validation split to choose on: held_out must be above 0, got 0")
        if self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}")
        if self.teacher_epochs is not None and self.teacher_epochs < 1:
            raise ValueError(f"teacher_epochs must be at least 1, got {self.teacher_epochs}")
        if self.teacher_checkpoint is not None and not self.teacher_checkpoint.is_file():
            raise ValueError(f"teacher_checkpoint must be a file, got {self.teacher_checkpoint}")
        self.teacher_config(self.output)
        for variant in self.variants:
            self.student_config(variant, {}, 0, Path("checkpoint.pt"), self.output)

    @property
    def variants(self) -> list[Variant]:
        """The variants in the order of ``methods``."""
        return [parse_variant(text) for text in self.methods]

    def teacher_config(self, output: Path) -> Config:
        """The run that trains the teacher."""
        epochs = self.teacher_epochs if self.teacher_epochs is not None else self.epochs
        recipe = {**self._recipe(), "epochs": epochs}
        return Config(**recipe, method="ce", student=self.teacher, seed=TEACHER_SEED, output=output)

    def student_config(
        self, variant: Variant, drawn: dict[str, float], seed: int, teacher: Path | None, output: Path
    ) -> Config:
        """A run of ``variant`` with settings ``drawn`` under the checkpoint ``teacher``."""
        under: dict[str, Any] = {}
        if variant.needs_teacher:
            under = {"teacher": self.teacher, "teacher_checkpoint": teacher}
        return Config(
            **self._recipe(), **under, method=variant.method, settings={**variant.settings, **drawn},
            logit_standardization=variant.logit_standardization, student=self.student, seed=seed, output=output,
        )  # fmt: skip

    def _recipe(self) -> dict[str, Any]:
        own = {"teacher", "teacher_checkpoint", "student", "output"}
        shared = {each.name for each in dataclasses.fields(self)} & {each.name for each in dataclasses.fields(Config)}
        return {name: getattr(self, name) for name in sorted(shared - own)}
