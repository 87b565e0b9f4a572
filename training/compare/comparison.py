"""What is compared: variants of methods, such as ``bickd:class_wise_weight=0``, under one protocol."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from training.config import Config, Recipe, check_count
from training.methods import METHODS, default_settings, make_method

TEACHER_SEED = 100
TUNING_SEED = 1000
MOST_SEEDS = 100
"""Report seeds stay below the teacher's and the tuning seed."""

SWITCH = "logit_standardization"


@dataclass(frozen=True)
class Variant:
    """A method, some of whose settings are fixed.

    Attributes:
        label: how the user wrote it.
        method: one of ``METHODS``.
        settings: the fixed settings; the others are the literature's, or tuned.
        logit_standardization: match standardized logits.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    logit_standardization: bool = False

    @property
    def needs_teacher(self) -> bool:
        return METHODS[self.method].needs_teacher

    @property
    def published(self) -> dict[str, Any]:
        """Every setting of the method with the literature's value."""
        return default_settings(self.method, logit_standardization=self.logit_standardization)

    @property
    def search(self) -> dict[str, tuple[float, float]]:
        """The settings that tuning chooses, with their ranges: those of the method, except the fixed ones.

        Where logit standardization has a larger published weight, its range is larger by the same factor.
        """
        ranges, plain, published = METHODS[self.method].search, default_settings(self.method), self.published
        factors = {name: published[name] / plain[name] for name in ranges if name not in self.settings}
        return {name: (ranges[name][0] * factor, ranges[name][1] * factor) for name, factor in factors.items()}

    def all_settings(self, drawn: dict[str, float] | None = None) -> dict[str, Any]:
        """Every setting of the method with its value: the literature's, overridden by the fixed ones and by ``drawn``."""
        return {**self.published, **self.settings, **(drawn or {})}


@dataclass(frozen=True)
class Comparison(Recipe):
    """Methods under one protocol; every run uses the same recipe.

    Attributes:
        teacher: name of the teacher's model.
        teacher_checkpoint: trained teacher, checkpoint.pt or a state_dict; by default the comparison trains one.
        teacher_epochs: number of epochs to train the teacher; default: the same as for a student.
        methods: variants to compare, each METHOD or METHOD:NAME=VALUE,NAME=VALUE, such as bickd:class_wise_weight=0.
        seeds: number of runs of each variant, from 1 to 100; their seeds are 0, 1, ...
        tune: trials per variant, judged by the validation accuracy of the last epoch; 0 for none, else at least 2.
        jobs: number of runs in parallel; they share the CPU cores.
        output: folder of the comparison.

    Raises:
        ValueError: names the argument, what it got and what is allowed.
    """

    teacher: str = "cnn_large"
    teacher_checkpoint: Path | None = None
    teacher_epochs: int | None = None
    methods: tuple[str, ...] = ("ce", "kd", "bickd")
    seeds: int = 3
    tune: int = 0
    jobs: int = 1
    output: Path = Path("runs/comparison")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods:
            raise ValueError("methods must name at least one method, got none")
        twice = sorted({label for label in self.methods if self.methods.count(label) > 1})
        if twice:
            raise ValueError(f"methods must be distinct, got {', '.join(twice)} more than once")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise ValueError(f"seeds must be the number of seeds, in [1, {MOST_SEEDS}], got {self.seeds}")
        if self.tune < 0 or self.tune == 1:
            raise ValueError(
                f"tune must be 0 or at least 2 trials (the first has the literature's settings), got {self.tune}"
            )
        if self.tune and self.held_out == 0:
            raise ValueError("tune needs a validation split to choose settings: held_out must be above 0, got 0")
        check_count("jobs", self.jobs)
        if self.teacher_epochs is not None:
            check_count("teacher_epochs", self.teacher_epochs)
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
        recipe = {**self._recipe(), "epochs": epochs, "student": self.teacher}
        return Config(**recipe, method="ce", seed=TEACHER_SEED, output=output)

    def caches_teacher(self, variant: Variant) -> bool:
        """Whether all runs of ``variant`` with one seed share the teacher's cached output."""
        return variant.needs_teacher and METHODS[variant.method].cacheable and self.views is not None and not self.mixing

    def student_config(
        self, variant: Variant, drawn: dict[str, float], seed: int, teacher: Path | None, output: Path,
        teacher_cache: Path | None = None,
    ) -> Config:  # fmt: skip
        """A run of ``variant`` with settings ``drawn`` and the teacher checkpoint ``teacher``."""
        under: dict[str, Any] = {}
        if variant.needs_teacher:
            under = {"teacher": self.teacher, "teacher_checkpoint": teacher, "teacher_cache": teacher_cache}
        return Config(
            **self._recipe(), **under, method=variant.method, settings={**variant.settings, **drawn},
            logit_standardization=variant.logit_standardization, seed=seed, output=output,
        )  # fmt: skip

    def _recipe(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(Recipe)}


def parse_variant(text: str) -> Variant:
    """The variant that ``METHOD`` or ``METHOD:NAME=VALUE,NAME=VALUE`` describes.

    Raises:
        ValueError: the text does not have this form, or the method refuses the settings.
    """
    method, colon, listed = text.partition(":")
    settings: dict[str, Any] = {}
    for assignment in listed.split(",") if colon else []:
        name, equals, value = (part.strip() for part in assignment.partition("="))
        if not (name and equals and value):
            raise ValueError(f"methods must be METHOD or METHOD:NAME=VALUE,NAME=VALUE, got {text!r}")
        if name in settings:
            raise ValueError(f"methods: {text!r} sets {name} twice")
        settings[name] = _value(value)
    switch = settings.pop(SWITCH, False)
    if not isinstance(switch, bool):
        raise ValueError(f"methods: {SWITCH} of {text!r} must be true or false, got {switch!r}")
    try:
        make_method(method, settings, logit_standardization=switch)
    except (ValueError, TypeError) as error:
        raise ValueError(f"methods: {text!r} is invalid: {error}") from error
    return Variant(text, method, settings, switch)


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
