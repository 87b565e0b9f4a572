"""The launches of a call and their order.

    [valid_samples], sample_statistics, class_statistics, similarity_tiles, [partial_sums], slope_tiles, logit_gradient

Five launches; one more where there are many tiles, and where targets are probabilities. Only a similarity matrix beyond
``planning.KEPT_BYTES`` that is not formed again on chip takes more: two for each of its panels.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Result, Settings
from bickd_kernels.backends.triton import planning
from bickd_kernels.backends.triton.class_statistics import class_statistics
from bickd_kernels.backends.triton.contrast import TileRows
from bickd_kernels.backends.triton.launch import Launch, LogitSizes, Numbers, Varying, run
from bickd_kernels.backends.triton.logit_gradient import logit_gradient
from bickd_kernels.backends.triton.partial_sums import partial_sums
from bickd_kernels.backends.triton.planning import Plan, Target, round_up
from bickd_kernels.backends.triton.sample_statistics import sample_statistics
from bickd_kernels.backends.triton.scratch import buffers
from bickd_kernels.backends.triton.similarity_tiles import similarity_tiles
from bickd_kernels.backends.triton.slope_tiles import slope_tiles
from bickd_kernels.backends.triton.valid_samples import valid_samples
from bickd_kernels.inputs import is_labels

similarity_kernel = planning.tunable(similarity_tiles)
slope_kernel = planning.tunable(slope_tiles)

NO_TILES = TileRows(0, 0)


class Terms(NamedTuple):
    """Which terms are computed, by the names that the kernels have for it."""

    WITH_CE: bool
    WITH_KD: bool
    WITH_CLASS: bool
    WITH_SAMPLE: bool

    @property
    def compare(self) -> bool:
        """Whether a term compares student and teacher."""
        return self.WITH_KD or self.WITH_CLASS or self.WITH_SAMPLE

    @property
    def sides(self) -> dict[str, bool]:
        """Which sides the scratch memory has, by name."""
        return {"WITH_CLASS": self.WITH_CLASS, "WITH_SAMPLE": self.WITH_SAMPLE}


class Configuration(NamedTuple):
    """All that decides what is launched, and with which compiled kernels, as long as tensors are aligned."""

    driver: Any
    """Triton's, which loads compiled kernels."""
    device: int
    target: Target
    dtypes: tuple[torch.dtype, torch.dtype]
    """Of the student's and the teacher's logits."""
    probabilities: torch.dtype | None
    """Of targets that are probabilities of the classes; None of others."""
    labels: bool
    """Whether targets are labels."""
    by_label: bool
    """Whether samples of one label are positives of each other."""
    smoothed: bool
    """Whether the targets of the cross-entropy are smoothed."""
    centred: bool
    """Whether vectors are centred: correlations in place of cosines."""
    samples: int
    classes: int
    strides: tuple[int, int]
    """Elements between two samples of the student's and the teacher's logits."""
    ignore_index: int
    terms: Terms
    parts: int
    """How many float16 numbers an entry of a unit vector is made of."""
    recomputable: bool
    """Whether ``E``, formed again, is near enough to what was summed."""
    wanted: tuple[int, int] | None
    """The samples that the gradient is wanted of, from one to before another; None: of none."""


class Prepared(NamedTuple):
    """What is the same in all calls of a configuration."""

    launches: list[Launch]
    scratch_elements: int
    """float32 numbers of scratch memory."""


def compute(batch: Batch, settings: Settings, gradient_rows: slice | None) -> Result:
    """Loss and terms, and the gradient of the samples ``gradient_rows``, or of none, in float32."""
    student, teacher = (logits if logits.stride(1) == 1 else logits.contiguous() for logits in batch[:2])
    target = student if batch.target is None else batch.target.contiguous()
    configuration = _configuration(student, teacher, batch.target, settings, gradient_rows)
    prepared = prepare(configuration)
    device = student.device
    scratch = torch.empty(prepared.scratch_elements, dtype=torch.float32, device=device)
    # Results of an operator must not share memory, so that each is an allocation of its own.
    loss = torch.empty((), dtype=torch.float32, device=device)
    terms = torch.empty(4, dtype=torch.float32, device=device)
    gradient = None
    if configuration.wanted is not None:
        first, stop = configuration.wanted
        gradient = torch.empty((stop - first, configuration.classes), dtype=torch.float32, device=device)
    numbers = _numbers(settings)
    varying = Varying(student, teacher, target, scratch, loss, terms, scratch if gradient is None else gradient, numbers)
    run(prepared.launches, varying, configuration.target.backend)
    return Result(loss, terms, gradient)


def _numbers(settings: Settings) -> Numbers:
    """The numbers of a call as kernels take them."""
    weights = settings.weights
    return Numbers(
        settings.temperature, settings.contrast_temperature, settings.kd_temperature, *weights, settings.label_smoothing
    )


def _configuration(
    student: Tensor, teacher: Tensor, target: Tensor | None, settings: Settings, wanted: slice | None
) -> Configuration:
    driver = triton.runtime.driver.active
    samples, classes = student.shape
    ce, kd, class_wise, sample_wise = settings.computed
    ce = ce and target is not None
    labels = is_labels(target)
    temperature, contrast_temperature = settings.temperature, settings.contrast_temperature
    centred = settings.similarity == "correlation"
    parts = planning.parts_of(student.dtype, samples, classes, temperature, contrast_temperature, centred=centred)
    return Configuration(
        driver=driver,
        device=driver.get_current_device(),
        target=planning.current_target(),
        dtypes=(student.dtype, teacher.dtype),
        probabilities=None if target is None or labels else target.dtype,
        labels=labels,
        by_label=labels and settings.by_label,
        smoothed=ce and settings.label_smoothing != 0,
        centred=centred,
        samples=samples,
        classes=classes,
        strides=(student.stride(0), teacher.stride(0)),
        ignore_index=settings.ignore_index,
        terms=Terms(ce, kd, class_wise, sample_wise),
        parts=parts,
        recomputable=planning.may_be_recomputed(parts, contrast_temperature),
        wanted=None if wanted is None else wanted.indices(samples)[:2],
    )


@functools.lru_cache(maxsize=256)
def prepare(configuration: Configuration) -> Prepared:
    """The launches of a configuration, and the scratch memory that they meet in."""
    stages = _Stages(configuration)
    return Prepared(stages.launches(), stages.scratch_elements)


class _Stages:
    """Puts the launches of a configuration together."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        terms, wanted = configuration.terms, configuration.wanted
        self.plan: Plan = planning.plan(
            configuration.samples,
            configuration.classes,
            configuration.parts,
            configuration.target,
            recomputable=configuration.recomputable,
        )
        self.class_panels = self.plan.class_panels if terms.WITH_CLASS and wanted is not None else []
        self.sample_panels = self.plan.sample_panels(*wanted) if terms.WITH_SAMPLE and wanted is not None else []
        self.kept_samples = self.sample_panels[0].number * self.plan.tile if self.sample_panels else 0
        self.padded = {"padded_samples": self.plan.padded_samples, "padded_classes": self.plan.padded_classes}
        self.units = {"PARTS": self.plan.parts, "TILE": self.plan.tile}

    @property
    def scratch_elements(self) -> int:
        """float32 numbers of scratch memory."""
        plan = self.plan
        memory = buffers.fn(
            0,
            samples=plan.padded_samples,
            classes=plan.padded_classes,
            kept_samples=self.kept_samples,
            **self.units,
            **self.configuration.terms.sides,
        )
        if self.configuration.wanted is None:
            return int(memory.classes.projections)
        kept_classes = self.class_panels[0].number * plan.tile if self.class_panels and not plan.recomputed else 0
        return int(memory.end) + kept_classes * plan.padded_classes

    def launches(self) -> list[Launch]:
        """All launches, in their order."""
        plan, terms = self.plan, self.configuration.terms
        only_class_panel = self.class_panels[0] if len(self.class_panels) == 1 else NO_TILES
        only_sample_panel = self.sample_panels[0] if len(self.sample_panels) == 1 else NO_TILES
        launches = [] if self.configuration.probabilities is None else [self._valid_samples()]
        launches.append(self._sample_statistics())
        if terms.compare or self.configuration.smoothed:
            launches.append(self._class_statistics())
        if terms.WITH_CLASS or terms.WITH_SAMPLE:
            launches.append(
                self._similarities(
                    classes=TileRows(0, plan.class_tiles) if terms.WITH_CLASS else NO_TILES,
                    samples=TileRows(0, plan.sample_tiles) if terms.WITH_SAMPLE else NO_TILES,
                    kept_classes=NO_TILES if plan.recomputed else only_class_panel,
                    kept_samples=only_sample_panel,
                )
            )
        if terms.WITH_CLASS and plan.classes_added_up:
            launches.append(self._partial_sums(of_classes=True))
        if terms.WITH_SAMPLE and plan.samples_added_up:
            launches.append(self._partial_sums(of_classes=False))
        launches.append(self._slopes(only_class_panel, only_sample_panel))
        for panel in self.class_panels if only_class_panel == NO_TILES else []:
            launches.append(self._similarities(classes=panel, samples=NO_TILES, kept_classes=panel, kept_samples=NO_TILES))
            launches.append(self._slopes(panel, NO_TILES))
        for panel in self.sample_panels if only_sample_panel == NO_TILES else []:
            launches.append(self._similarities(classes=NO_TILES, samples=panel, kept_classes=NO_TILES, kept_samples=panel))
            launches.append(self._slopes(NO_TILES, panel))
        if self.configuration.wanted is not None and self.configuration.wanted[0] < self.configuration.wanted[1]:
            launches.append(self._logit_gradient(*self.configuration.wanted))
        return launches

    @functools.cached_property
    def _logits(self) -> dict[str, Any]:
        """The arguments about logits. ``VECTOR`` is the largest number of elements, up to 16 bytes, that divides all."""
        classes, strides = self.configuration.classes, self.configuration.strides
        widest = 16 // min(dtype.itemsize for dtype in self.configuration.dtypes)
        vector = math.gcd(widest, classes, *strides)
        sizes = LogitSizes(self.configuration.samples, classes // vector, *(stride // vector for stride in strides))
        return {"sizes": sizes, "VECTOR": vector}

    @property
    def _logits_in_elements(self) -> dict[str, Any]:
        """The same with no known alignment, so that neighbouring classes go to neighbouring threads and not to one."""
        configuration = self.configuration
        return {"sizes": LogitSizes(configuration.samples, configuration.classes, *configuration.strides), "VECTOR": 1}

    def _valid_samples(self) -> Launch:
        tile = self.plan.sample_logits
        return Launch(
            valid_samples,
            [round_up(self.plan.padded_samples, tile.samples) // tile.samples],
            {**self._logits, **self.padded, "SAMPLES": tile.samples, "CLASSES": tile.classes},
            {"num_warps": tile.warps},
        )

    def _sample_statistics(self) -> Launch:
        configuration, tile = self.configuration, self.plan.sample_logits
        return Launch(
            sample_statistics,
            [round_up(self.plan.padded_samples, tile.samples) // tile.samples],
            {
                **self._logits,
                **self.padded,
                "ignore_index": configuration.ignore_index,
                "LABELS": configuration.labels,
                "PROBABILITIES": configuration.probabilities is not None,
                "BY_LABEL": configuration.by_label,
                "SMOOTHED": configuration.smoothed,
                "WITH_CE": configuration.terms.WITH_CE,
                "WITH_KD": configuration.terms.WITH_KD,
                "WITH_SAMPLE": configuration.terms.WITH_SAMPLE,
                "CENTRED": configuration.centred and configuration.terms.WITH_SAMPLE,
                "SAMPLES": tile.samples,
                "CLASSES": tile.classes,
                "TARGETS": 256,
            },
            # Rows that are not aligned are read one logit at a time, which takes more registers than a thread has.
            {"num_warps": tile.warps * (2 if self._logits["VECTOR"] == 1 else 1)},
        )

    def _class_statistics(self) -> Launch:
        tile = self.plan.class_logits
        return Launch(
            class_statistics,
            [self.plan.padded_classes // tile.classes],
            {
                **self._logits_in_elements,
                **self.padded,
                **self.units,
                **self.configuration.terms.sides,
                "CENTRED": self.configuration.centred,
                "SAMPLES": tile.samples,
                "CLASSES": tile.classes,
                "RESIDENT": self.plan.padded_samples <= tile.samples,
            },
            {"num_warps": tile.warps},
        )

    def _similarities(
        self, *, classes: TileRows, samples: TileRows, kept_classes: TileRows, kept_samples: TileRows
    ) -> Launch:
        plan = self.plan
        return self._products(
            similarity_kernel,
            classes.number * plan.class_tiles + samples.number * plan.sample_tiles,
            {
                "class_tiles": classes,
                "sample_tiles": samples,
                "kept_class_tiles": kept_classes,
                "kept_sample_tiles": kept_samples,
                **self.configuration.terms.sides,
            },
        )

    def _partial_sums(self, *, of_classes: bool) -> Launch:
        vectors = self.plan.padded_classes if of_classes else self.plan.padded_samples
        return Launch(
            partial_sums,
            [round_up(vectors, 256) // 256, 2],
            {
                **self.padded,
                **self.units,
                **self.configuration.terms.sides,
                "OF_CLASSES": of_classes,
                "BLOCK": 256,
            },
        )

    def _slopes(self, classes: TileRows, samples: TileRows) -> Launch:
        """Slopes of these tile rows, and the loss with them."""
        plan = self.plan
        class_programs = classes.number * plan.sample_tiles
        if plan.recomputed:
            class_programs = classes.number * plan.tile // plan.recomputed_tile
        return self._products(
            slope_kernel,
            1 + class_programs + samples.number * plan.class_tiles,
            {
                "class_tiles": classes,
                "sample_tiles": samples,
                **self.configuration.terms._asdict(),
                "SMOOTHED": self.configuration.smoothed,
                "CLASSES_ADDED_UP": plan.classes_added_up,
                "SAMPLES_ADDED_UP": plan.samples_added_up,
                "MOST_TILES": plan.most_tiles,
                "RECOMPUTED": plan.recomputed,
                "RECOMPUTED_TILE": plan.recomputed_tile,
            },
        )

    def _products(self, kernel: Any, programs: int, arguments: dict[str, Any]) -> Launch:
        """A launch of a kernel of matrix products, whose pipeline may be measured."""
        options = {"num_warps": self.plan.warps, "num_stages": self.plan.stages}
        shared = {"kept_samples": self.kept_samples, "CENTRED": self.configuration.centred}
        arguments = {**arguments, **self.padded, **self.units, **shared}
        if planning.AUTOTUNE:
            return Launch(kernel, [programs], arguments)
        return Launch(kernel, [programs], {**arguments, "STEP": self.plan.step}, options)

    def _logit_gradient(self, first: int, stop: int) -> Launch:
        tile = self.plan.sample_logits
        return Launch(
            logit_gradient,
            [round_up(stop - first, tile.samples) // tile.samples],
            {
                **self._logits,
                **self.padded,
                **self.units,
                **self.configuration.terms._asdict(),
                "PROBABILITIES": self.configuration.probabilities is not None,
                "SMOOTHED": self.configuration.smoothed,
                "CENTRED": self.configuration.centred,
                "first_sample": first,
                "wanted_samples": stop - first,
                "CLASS_PROJECTIONS": 1 if self.plan.recomputed else 0,
                "SAMPLES": tile.samples,
                "CLASSES": tile.classes,
            },
            {"num_warps": tile.warps},
        )
