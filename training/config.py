"""The settings of one training run, their checks, and what its result depends on."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data import Augmenting, Columns, Mixing, check_name, without_path
from training.methods import METHODS, make_method
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
    "evaluation in place of training": ("evaluate", "split"),
}  # fmt: skip
"""The groups of options in ``--help``, in the order in which one needs them."""

PLACES = frozenset({"data", "student_checkpoint", "teacher_checkpoint", "teacher_cache", "output"})
"""Settings that say where something is. Of checkpoints it matters whether there is one: a teacher without one is a published
one."""

CONDUCT = frozenset({"resume", "strict_data", "checkpoint_minutes", "evaluate", "split"})
"""Settings that say what happens when a run begins, stops or meets a broken image; a run that ends comes to the same."""

SPEED = frozenset({"device", "workers", "teacher_cache"})
"""Settings that the time of a step depends on, and the result in nothing but rounding."""


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``Config.as_dict``, what the trained weights depend on beside the data; of a place, whether it is given."""
    return {name: value for name, value in decisive_for_time(settings).items() if name not in SPEED}


def decisive_for_time(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with what the time of a step depends on as well."""
    return {
        name: value is not None if name in PLACES else value
        for name, value in {**settings, "dataset": without_path(settings["dataset"])}.items()
        if name not in CONDUCT
    }


@dataclass(frozen=True)
class Recipe:
    """What the runs of a comparison share: the data, the student, how it is trained and how that is executed.

    The types are plain ones: where a configuration file could hold anything, it could name a class to import.

    Attributes:
        dataset: digits100, fashion100, fashion_mnist, cifar10, cifar100, imagenet, folder:PATH or hf:PATH_OR_NAME.
        data: folder that holds the files of the data set; digits100 needs none.
        image_column: column of the images, for hf: and for CIFAR in Parquet files; chosen by name or type without it.
        label_column: column of the labels; fine_label or label, or chosen by its type, without it.
        train_per_class: training samples of each class, always the same ones; all without it.
        held_out: share of the training samples held out for validation; 0 holds out none, each data set has a default.
        image_size: pixels a side that images of imagenet, folder:PATH and hf: are cropped to; 224 without it.
        augmentation: none, cifar (padding, crop, flip) or imagenet (resized crop, flip); without it the data set's own.
        auto_augment: randaugment or trivialaugment on top, in the version of torchvision.
        random_erasing: probability that a training image loses a random rectangle.
        views: augmented versions of each training image, which epochs repeat in turn; new ones every epoch without it.
        mixup: alpha of mixup, 0 for none; student and teacher see the same mixed images.
        cutmix: alpha of CutMix, 0 for none; with mixup as well, one of them for each sample.
        student: name of the model that is trained: one of this suite, of torchvision.models, or timm:NAME.
        epochs: passes over the training split.
        batch_size: samples a step of the optimizer, over all processes and all parts of an accumulated step.
        accumulate: parts that a step's samples are computed in, one after the other, to save memory.
        optimizer: sgd, with Nesterov momentum, or adamw.
        learning_rate: at the start of its schedule.
        momentum: of sgd; 0 for none.
        weight_decay: of the optimizer's, on all parameters.
        decay_norms_and_biases: false leaves the parameters of norms, and biases, out of the weight decay.
        clip_norm: longest gradient of a step, a longer one is scaled to it; no limit without it.
        schedule: cosine, to 0 at the end, or step, a division by 10 after each of the milestones.
        milestones: epochs after which the step schedule divides the learning rate.
        warmup_epochs: epochs of a linear rise of the learning rate before its schedule.
        warmup_steps: the same in steps of the optimizer, in place of warmup_epochs.
        label_smoothing: of the cross-entropy, in [0, 1).
        ema_decay: decay a step of a moving average of the weights, less at first; it is evaluated and saved; 0 for none.
        precision: float32, bf16, or fp16 with a gradient scaler; losses are float32 at least.
        channels_last: store images and weights with the channels last in memory.
        compile: run student and teacher through torch.compile.
        device: auto, cpu, cuda or cuda:N; auto takes the GPU where there is one.
        workers: processes that read and augment images; 0 does it in the training process.

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
        """The columns that were named, if any was."""
        columns = Columns(self.image_column, self.label_column)
        return None if columns == Columns() else columns

    @property
    def augmenting(self) -> Augmenting:
        """What is made of each training image."""
        return Augmenting(self.augmentation, self.auto_augment, self.random_erasing)

    @property
    def mixing(self) -> Mixing:
        """How training samples are mixed."""
        return Mixing(self.mixup, self.cutmix)

    def _expand_paths(self) -> None:
        """``~`` is the home folder wherever a path comes from: a shell does not see those of a file."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, str | Path) and not is_encodable(str(value)):
                raise ValueError(
                    f"{each.name} must be in UTF-8, which config.yaml is written in, got {value}; make a link to it"
                )
            if isinstance(value, Path):
                try:
                    object.__setattr__(self, each.name, value.expanduser())
                except RuntimeError as error:
                    raise ValueError(f"{each.name} must be a path, got {value}: {error}") from error

    def _check_data(self) -> None:
        # They check themselves when they are made.
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
            raise ValueError(f"milestones must be given for schedule 'step' and for no other, got {self.milestones}")
        if list(self.milestones) != sorted(set(self.milestones)) or not all(each > 0 for each in self.milestones):
            raise ValueError(f"milestones must be positive and rising, got {self.milestones}")
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
        settings: of the method, such as --settings.kd_weight 0.9; its defaults are the literature's.
        logit_standardization: of kd, dkd and bickd: match standardized logits, with the published settings for that.
        student_checkpoint: weights that the student starts from, in any form that teacher_checkpoint has.
        new_classifier: leave the student's classifier untrained where that of student_checkpoint is of another size.
        teacher: name of the teacher's model; with imagenet and no checkpoint, torchvision's published weights.
        teacher_checkpoint: checkpoint.pt of a run, or weights of the model that teacher names, .safetensors too.
        teacher_cache: folder that keeps the teacher's logits for every one of the views, for methods that need only logits.
        strict_data: stop at an image that cannot be read, instead of leaving it out and counting it.
        checkpoint_minutes: time between saves within an epoch; every epoch is saved besides. 0 saves every step.
        seed: from 0 to 2^32 - 1, of the weights, the order of the samples and their augmentation.
        output: folder of the run's results; may be a link, and nothing in it is written through one.
        resume: go on with the run in output, from its last save.
        evaluate: a checkpoint to measure in place of training, of a run or with weights of the model that student names.
        split: that evaluate measures on, train, validation or test.

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
            raise ValueError("new_classifier must be left out without student_checkpoint, whose classifier it leaves out")
        if not 0 <= self.checkpoint_minutes < math.inf:
            raise ValueError(f"checkpoint_minutes must be finite and not negative, got {self.checkpoint_minutes}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2^32), got {self.seed}")

    def _check_teacher(self) -> None:
        if self.teacher is not None:
            check_model("teacher", self.teacher)
        if not METHODS[self.method].needs_teacher:
            for name in ("teacher", "teacher_checkpoint", "teacher_cache"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} must be left out for method {self.method!r}, which has no teacher")
        elif self.teacher_checkpoint is None and not (self.dataset == "imagenet" and self.teacher is not None):
            raise ValueError(f"teacher_checkpoint must be given for method {self.method!r}, got None")
        if self.teacher_cache is not None and not METHODS[self.method].caches_logits:
            raise ValueError(
                f"teacher_cache must be left out for method {self.method!r}, which needs more of the teacher than its logits"
            )
        if self.teacher_cache is not None and self.views is None:
            raise ValueError("views must be given with a teacher_cache, which keeps the logits of each of them, got None")

    def _check_mixing(self) -> None:
        if not self.mixing:
            return
        told = f"mixup and cutmix must be 0, got {self.mixup} and {self.cutmix},"
        if not METHODS[self.method].takes_probabilities:
            able = ", ".join(name for name, method in METHODS.items() if method.takes_probabilities)
            raise ValueError(
                f"{told} for method {self.method!r}, which needs one class a sample; methods that do not: {able}"
            )
        if self.settings.get("positives") == "label":
            raise ValueError(f"{told} with settings.positives 'label': a mixed sample has no label, and is its own positive")
        if self.teacher_cache is not None:
            raise ValueError(f"{told} with a teacher_cache: a sample has another partner every epoch")

    def as_dict(self) -> dict[str, Any]:
        """The settings as YAML and ``weights_only`` loading take them: paths as text, tuples as lists."""
        plain = dataclasses.asdict(self)
        for name, value in plain.items():
            if isinstance(value, Path):
                plain[name] = str(value)
            elif isinstance(value, tuple):
                plain[name] = list(value)
        return plain


def is_encodable(text: str) -> bool:
    """Whether a text is in UTF-8: in names of files, bytes may be that are not."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def check_count(name: str, value: int) -> None:
    """Refuses less than 1.

    Raises:
        ValueError: names the setting.
    """
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
