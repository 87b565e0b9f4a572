"""The settings of one training run: their validation, and which of them affect the result."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data import Augmenting, Columns, Mixing, check_name, without_path
from training.methods import METHODS, default_settings, make_method
from training.models import check_model

PRECISIONS = ("float32", "bf16", "fp16")
SCHEDULES = ("cosine", "step")
OPTIMIZERS = ("sgd", "adamw")
SPLITS = ("train", "validation", "test")

GROUPS = {
    "data": ("dataset", "data", "image_column", "label_column", "train_per_class", "held_out", "image_size"),
    "student and teacher": (
        "student", "student_checkpoint", "new_classifier", "teacher", "teacher_checkpoint", "teacher_epochs",
        "teacher_cache",
    ),
    "method": ("method", "methods", "settings", "logit_standardization"),
    "augmentation": ("augmentation", "auto_augment", "random_erasing", "views", "mixup", "cutmix"),
    "recipe": (
        "epochs", "batch_size", "optimizer", "learning_rate", "momentum", "weight_decay", "decay_norms_and_biases",
        "clip_norm", "schedule", "milestones", "warmup_epochs", "warmup_steps", "label_smoothing", "ema_decay",
    ),
    "the run": ("output", "seed", "seeds", "tune", "jobs", "resume", "checkpoint_minutes", "strict_data"),
    "execution": ("device", "workers", "precision", "accumulate", "channels_last", "compile"),
    "evaluation instead of training": ("evaluate", "split"),
}  # fmt: skip
"""The groups of options in ``--help``, in the order in which a user needs them."""

PLACES = frozenset({"data", "student_checkpoint", "teacher_checkpoint", "teacher_cache", "output"})
"""Settings that hold paths. For a checkpoint only its presence matters: a teacher without one uses published weights."""

CONDUCT = frozenset({"resume", "strict_data", "checkpoint_minutes", "evaluate", "split"})
"""Settings that say what happens when a run begins, stops or meets a broken image; they do not change the result of a run
that finishes."""

SPEED = frozenset({"device", "workers", "teacher_cache"})
"""Settings that affect the time of a step, and the result only by rounding."""


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the trained weights depend on besides the data, from ``Config.as_dict``; for a path, whether it is set."""
    return {name: value for name, value in decisive_for_time(settings).items() if name not in SPEED}


def decisive_for_time(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same, plus the settings that the time of a step depends on."""
    return {
        name: value is not None if name in PLACES else value
        for name, value in {**settings, "dataset": without_path(settings["dataset"])}.items()
        if name not in CONDUCT
    }


@dataclass(frozen=True)
class Recipe:
    """What the runs of a comparison share: the data, the student, the training recipe and how it is executed.

    All types are plain: a configuration file that could hold arbitrary objects could name a class to import.

    Attributes:
        dataset: digits100, fashion100, fashion_mnist, cifar10, cifar100, imagenet, folder:PATH or hf:PATH_OR_NAME.
        data: folder that holds the data set's files; digits100 needs none.
        image_column: image column, for hf: and for CIFAR in Parquet files; by default chosen by name or type.
        label_column: label column; by default fine_label or label, or chosen by type.
        train_per_class: number of training samples per class, the same ones in every run; default: all.
        held_out: share of the training samples held out for validation, 0 for none; the default depends on the data set.
        image_size: side length in pixels that images of imagenet, folder:PATH and hf: are cropped to; default: 224.
        augmentation: none, cifar (padding, crop, flip) or imagenet (resized crop, flip); default: the data set's own.
        auto_augment: additional randaugment or trivialaugment, as implemented in torchvision.
        random_erasing: probability that a random rectangle of a training image is erased.
        views: number of augmented versions per training image that the epochs cycle through; default: a new one each epoch.
        mixup: alpha of mixup, 0 for none; student and teacher see the same mixed images.
        cutmix: alpha of CutMix, 0 for none; with mixup as well, each sample uses one of the two.
        student: name of the model to train: one of this suite, of torchvision.models, or timm:NAME.
        epochs: passes over the training split.
        batch_size: effective batch size: samples per optimizer step, over all processes and micro-batches.
        accumulate: number of micro-batches per optimizer step (gradient accumulation), to save memory.
        optimizer: sgd, with Nesterov momentum, or adamw.
        learning_rate: initial learning rate of the schedule.
        momentum: momentum of sgd; 0 for none.
        weight_decay: weight decay of the optimizer, on all parameters.
        decay_norms_and_biases: false excludes the parameters of norms, and biases, from weight decay.
        clip_norm: maximum gradient norm of an optimizer step; larger gradients are scaled down to it; default: no limit.
        schedule: learning-rate schedule: cosine, down to 0, or step, which divides by 10 after each milestone.
        milestones: epochs after which the step schedule divides the learning rate by 10.
        warmup_epochs: epochs of linear warm-up before the schedule.
        warmup_steps: the same in optimizer steps, instead of warmup_epochs.
        label_smoothing: label smoothing of the cross-entropy, in [0, 1).
        ema_decay: decay per step of the weights' moving average, smaller at first; it is evaluated and saved; 0 for none.
        precision: float32, bf16, or fp16 with a gradient scaler; losses are computed in float32 or higher.
        channels_last: store images and weights in the channels-last memory format.
        compile: run student and teacher through torch.compile.
        device: auto, cpu, cuda or cuda:N; auto uses the GPU if there is one.
        workers: number of processes that read and augment images; 0 does this in the training process.

    Raises:
        ValueError: names the setting, what it got and what is allowed.
    """

    dataset: str = "digits100"
    data: Path = Path("data")
    image_column: str | None = None
    label_column: str | None = None
    train_per_class: int | None = None
    held_out: float | None = None
    image_size: int | None = None
    augmentation: str | None = None
    auto_augment: str | None = None
    random_erasing: float = 0.0
    views: int | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    student: str = "cnn_small"
    epochs: int = 12
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norms_and_biases: bool = True
    clip_norm: float | None = None
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    warmup_epochs: int = 0
    warmup_steps: int = 0
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    device: str = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        self._expand_paths()
        check_name(self.dataset)
        check_model("student", self.student)
        self._check_data()
        self._check_optimization()
        self._check_schedule()
        self._check_execution()

    @property
    def columns(self) -> Columns | None:
        """The columns that the user named, if any."""
        columns = Columns(self.image_column, self.label_column)
        return None if columns == Columns() else columns

    @property
    def augmenting(self) -> Augmenting:
        """How each training image is augmented."""
        return Augmenting(self.augmentation, self.auto_augment, self.random_erasing)

    @property
    def mixing(self) -> Mixing:
        """How training samples are mixed."""
        return Mixing(self.mixup, self.cutmix)

    def _expand_paths(self) -> None:
        """Expands ``~`` in every path, since the shell does not see paths in a configuration file."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, str | Path) and not is_encodable(str(value)):
                raise ValueError(
                    f"{each.name} must be valid UTF-8, the encoding of config.yaml, got {value}; create a link to it"
                )
            if isinstance(value, Path):
                try:
                    object.__setattr__(self, each.name, value.expanduser())
                except RuntimeError as error:
                    raise ValueError(f"{each.name} must be a path, got {value}: {error}") from error

    def _check_data(self) -> None:
        # Their constructors check the settings.
        _ = self.augmenting, self.mixing
        if self.train_per_class is not None:
            check_count("train_per_class", self.train_per_class)
        if self.held_out is not None and not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be in [0, 1), got {self.held_out}")
        for name in ("image_size", "views"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))

    def _check_optimization(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            check_count(name, getattr(self, name))
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size {self.batch_size}, got {self.accumulate}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative, got {self.weight_decay}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ValueError(f"clip_norm must be positive and finite, got {self.clip_norm}")

    def _check_schedule(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(f"milestones must be given for schedule 'step' and only for it, got {self.milestones}")
        if list(self.milestones) != sorted(set(self.milestones)) or not all(each > 0 for each in self.milestones):
            raise ValueError(f"milestones must be positive and strictly increasing, got {self.milestones}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs must be in [0, epochs), got {self.warmup_epochs} of {self.epochs}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError(
                f"warmup_steps must be left out with warmup_epochs {self.warmup_epochs}, got {self.warmup_steps}"
            )

    def _check_execution(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")


@dataclass(frozen=True)
class Config(Recipe):
    """One run.

    Attributes:
        method: ce (no teacher), kd, rkd, crd, sskd, dkd, dist or bickd.
        settings: settings of the method, such as --settings.kd_weight 0.9; the defaults are the literature's.
        logit_standardization: for kd, dkd and bickd: match standardized logits, with the settings published for that.
        student_checkpoint: initial weights of the student, in any form that teacher_checkpoint accepts.
        new_classifier: leave the student's classifier untrained if the one in student_checkpoint has another size.
        teacher: name of the teacher's model; for imagenet without a checkpoint, torchvision's published weights are used.
        teacher_checkpoint: checkpoint.pt of a run, or weights of the model that teacher names, also as .safetensors.
        teacher_cache: folder that keeps the teacher's output for every view; not for sskd.
        strict_data: stop at an image that cannot be read, instead of leaving it out and counting it.
        checkpoint_minutes: minutes between checkpoints within an epoch, besides one after every epoch; 0 saves every step.
        seed: from 0 to 2^32 - 1; decides the initial weights, the order of the samples and their augmentation.
        output: folder for the run's results; it may be a link, but nothing in it is written through a link.
        resume: continue the run in output from its last checkpoint.
        evaluate: checkpoint to evaluate instead of training: one of a run, or weights of the model that student names.
        split: split that evaluate uses: train, validation or test.

    Raises:
        ValueError: names the setting, what it got and what is allowed.
    """

    method: str = "bickd"
    settings: dict[str, bool | int | float | str] = field(default_factory=dict)
    logit_standardization: bool = False
    student_checkpoint: Path | None = None
    new_classifier: bool = False
    teacher: str | None = None
    teacher_checkpoint: Path | None = None
    teacher_cache: Path | None = None
    strict_data: bool = False
    checkpoint_minutes: float = 10.0
    seed: int = 0
    output: Path = Path("runs/latest")
    resume: bool = False
    evaluate: Path | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        make_method(
            self.method, self.settings, logit_standardization=self.logit_standardization,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
        if self.evaluate is None:
            self._check_teacher()
        self._check_mixing()
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.new_classifier and self.student_checkpoint is None:
            raise ValueError("new_classifier must be left out without student_checkpoint, whose classifier it ignores")
        if not 0 <= self.checkpoint_minutes < math.inf:
            raise ValueError(f"checkpoint_minutes must be finite and not negative, got {self.checkpoint_minutes}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2^32), got {self.seed}")

    @property
    def too_short(self) -> list[str]:
        """In words, what there are too few epochs for: milestones after their end, a warm-up of more than half of them."""
        late = [each for each in self.milestones if each > self.epochs or self.milestones[0] >= self.epochs]
        warmup = {**default_settings(self.method), **self.settings}.get("warmup_epochs", 0)
        told = []
        if late:
            rate = self.learning_rate * 0.1 ** sum(each < self.epochs for each in self.milestones)
            told.append(
                f"milestones {', '.join(map(str, late))} come after the {self.epochs} epochs: "
                f"the learning rate ends at {rate:g}"
            )
        # The last epoch of a warm-up has the full weight.
        if 2 * (warmup - 1) > self.epochs:
            told.append(
                f"{self.method} has its full weight only from epoch {warmup} on, and the training has {self.epochs}: "
                "settings.warmup_epochs shortens its warm-up"
            )
        return told

    def _check_teacher(self) -> None:
        if self.teacher is not None:
            check_model("teacher", self.teacher)
        if not METHODS[self.method].needs_teacher:
            for name in ("teacher", "teacher_checkpoint", "teacher_cache"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} must be left out for method {self.method!r}, which has no teacher")
        elif self.teacher_checkpoint is None and not (self.dataset == "imagenet" and self.teacher is not None):
            raise ValueError(f"teacher_checkpoint must be given for method {self.method!r}, got None")
        if self.teacher_cache is not None and not METHODS[self.method].cacheable:
            raise ValueError(
                f"teacher_cache must be left out for method {self.method!r}, which shows its teacher other images too"
            )
        if self.teacher_cache is not None and self.views is None:
            raise ValueError("views must be given with teacher_cache, which keeps the output for each view, got None")

    def _check_mixing(self) -> None:
        if not self.mixing:
            return
        told = f"mixup and cutmix must be 0, got {self.mixup} and {self.cutmix},"
        if not METHODS[self.method].takes_probabilities:
            able = ", ".join(name for name, method in METHODS.items() if method.takes_probabilities)
            raise ValueError(
                f"{told} for method {self.method!r}, which needs one class per sample; methods that do not: {able}"
            )
        if self.settings.get("positives") == "label":
            raise ValueError(f"{told} with settings.positives 'label': a mixed sample has no label and is its own positive")
        if self.teacher_cache is not None:
            raise ValueError(f"{told} with teacher_cache: a sample has a different partner in every epoch")

    def as_dict(self) -> dict[str, Any]:
        """The settings in a form that YAML and ``weights_only`` loading accept: paths as text, tuples as lists."""
        plain = dataclasses.asdict(self)
        for name, value in plain.items():
            if isinstance(value, Path):
                plain[name] = str(value)
            elif isinstance(value, tuple):
                plain[name] = list(value)
        return plain


def is_encodable(text: str) -> bool:
    """Whether a text can be encoded as UTF-8; file names may contain bytes that cannot."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def check_count(name: str, value: int) -> None:
    """Refuses a value less than 1.

    Raises:
        ValueError: names the setting.
    """
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
