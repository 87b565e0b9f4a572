"""The launches of a call and their order.

    [valid_samples], sample_statistics, class_statistics, similarity_tiles, [partial_sums], derivative_tiles, slope_tiles,
    [similarity_tiles, slope_tiles for each panel], logit_gradient

Six launches, one more each for many tiles and for probability targets. A similarity matrix that is too large to keep takes
two launches for each of its panels.
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
from bickd_kernels.backends.triton.contrast import Panel, TileRows, unspecialised
from bickd_kernels.backends.triton.derivative_tiles import derivative_tiles
from bickd_kernels.backends.triton.launch import Launch, LogitSizes, Numbers, Varying, run
from bickd_kernels.backends.triton.logit_gradient import logit_gradient
from bickd_kernels.backends.triton.partial_sums import partial_sums
from bickd_kernels.backends.triton.planning import Plan, Target, round_up
from bickd_kernels.backends.triton.sample_statistics import sample_statistics
from bickd_kernels.backends.triton.scratch import Held, buffers
from bickd_kernels.backends.triton.similarity_tiles import similarity_tiles
from bickd_kernels.backends.triton.slope_tiles import slope_tiles
from bickd_kernels.backends.triton.valid_samples import valid_samples
from bickd_kernels.inputs import is_labels

similarity_kernel = planning.tunable(similarity_tiles)
slope_kernel = planning.tunable(slope_tiles)

NO_PANEL = Panel(0, 0, 0, 0)


class Terms(NamedTuple):
    """Which terms are computed, by the names of the kernel constants."""

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
    """Everything that determines the launches and their compiled kernels, provided that tensors are aligned."""

    driver: Any
    """Triton's driver, which loads compiled kernels."""
    device: int
    target: Target
    dtypes: tuple[torch.dtype, torch.dtype]
    """Dtypes of the student's and the teacher's logits."""
    probabilities: torch.dtype | None
    """The dtype of targets that are class probabilities; None for other targets."""
    labels: bool
    """Whether targets are labels."""
    by_label: bool
    """Whether samples with the same label are positives of each other."""
    smoothed: bool
    """Whether the targets of the cross-entropy are smoothed."""
    centred: bool
    """Whether vectors are centred: correlations instead of cosines."""
    samples: int
    classes: int
    strides: tuple[int, int]
    """Elements between two samples of the student's and the teacher's logits."""
    ignore_index: int
    terms: Terms
    parts: int
    """float16 numbers per entry of a unit vector."""
    wanted: tuple[int, int] | None
    """The samples that need a gradient, as (start, stop); None for no gradient."""


class Prepared(NamedTuple):
    """What all calls of a configuration share."""

    launches: list[Launch]
    scratch_elements: int
    """float32 numbers of scratch memory."""


def compute(batch: Batch, settings: Settings, gradient_rows: slice | None) -> Result:
    """Loss and terms, and the gradient of the samples ``gradient_rows``, if any, in float32."""
    student, teacher = (logits if logits.stride(1) == 1 else logits.contiguous() for logits in batch[:2])
    target = student if batch.target is None else batch.target.contiguous()
    configuration = _configuration(student, teacher, batch.target, settings, gradient_rows)
    prepared = prepare(configuration)
    device = student.device
    scratch = torch.empty(prepared.scratch_elements, dtype=torch.float32, device=device)
    # An operator's results must not share memory, so each has its own allocation.
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
    """The numeric options of a call, as kernels take them."""
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
        wanted=None if wanted is None else wanted.indices(samples)[:2],
    )


@functools.lru_cache(maxsize=256)
def prepare(configuration: Configuration) -> Prepared:
    """The launches of a configuration and the size of the scratch memory that they share."""
    stages = _Stages(configuration)
    return Prepared(stages.launches(), stages.scratch_elements)


def tiles_of(panel: Panel) -> int:
    """The number of tiles in a panel."""
    return panel.rows * panel.columns


def most_tiles(panels: list[Panel]) -> int:
    """The number of tiles in the largest panel of a side."""
    return tiles_of(panels[0]) if panels else 0


def only(panels: list[Panel]) -> Panel:
    """The only panel of a side whose ``E`` is kept; for a side with several panels, one without tiles."""
    return panels[0] if len(panels) == 1 else NO_PANEL


class _Stages:
    """Assembles the launches of a configuration."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        terms, wanted = configuration.terms, configuration.wanted
        self.plan: Plan = planning.plan(
            configuration.samples,
            configuration.classes,
            configuration.parts,
            configuration.target,
            centred=configuration.centred,
        )
        self.class_panels: list[Panel] = []
        self.sample_panels: list[Panel] = []
        if wanted is not None and wanted[0] < wanted[1]:
            self.class_panels = self.plan.class_panels if terms.WITH_CLASS else []
            self.sample_panels = self.plan.sample_panels(*wanted) if terms.WITH_SAMPLE else []
        self.kept_classes = only(self.class_panels)
        self.kept_samples = only(self.sample_panels)
        self.held = Held(most_tiles(self.class_panels), most_tiles(self.sample_panels), tiles_of(self.kept_samples))
        self.padded = {"padded_samples": self.plan.padded_samples, "padded_classes": self.plan.padded_classes}
        self.units = {"PARTS": self.plan.parts, "TILE": self.plan.tile}
        self.added_up = {
            "CLASSES_ADDED_UP": self.plan.added_up(self.plan.class_tiles, self.class_panels),
            "SAMPLES_ADDED_UP": self.plan.added_up(self.plan.sample_tiles, self.sample_panels),
        }

    @property
    def scratch_elements(self) -> int:
        """float32 numbers of scratch memory."""
        plan, held = self.plan, self.held
        memory = buffers.fn(
            0,
            samples=plan.padded_samples,
            classes=plan.padded_classes,
            held_classes=held.classes,
            held_samples=held.samples,
            kept_samples=held.kept_samples,
            **self.units,
            **self.configuration.terms.sides,
        )
        if self.configuration.wanted is None:
            return int(memory.classes.projections)
        return int(memory.end) + tiles_of(self.kept_classes) * plan.tile * plan.tile

    def launches(self) -> list[Launch]:
        """All launches, in order."""
        terms, wanted = self.configuration.terms, self.configuration.wanted
        launches = [] if self.configuration.probabilities is None else [self._valid_samples()]
        launches.append(self._sample_statistics())
        if terms.compare or self.configuration.smoothed:
            launches.append(self._class_statistics())
        if terms.WITH_CLASS or terms.WITH_SAMPLE:
            launches.append(self._sums_of_similarities())
        if terms.WITH_CLASS and self.added_up["CLASSES_ADDED_UP"]:
            launches.append(self._partial_sums(of_classes=True))
        if terms.WITH_SAMPLE and self.added_up["SAMPLES_ADDED_UP"]:
            launches.append(self._partial_sums(of_classes=False))
        if self.kept_classes.rows or self.kept_samples.rows:
            launches.append(self._derivatives_of_kept())
        launches.append(self._slopes(self.kept_classes, self.kept_samples, with_loss=True))
        for panel in self.class_panels if not self.kept_classes.rows else []:
            launches += [self._derivatives(panel, NO_PANEL), self._slopes(panel, NO_PANEL)]
        for panel in self.sample_panels if not self.kept_samples.rows else []:
            launches += [self._derivatives(NO_PANEL, panel), self._slopes(NO_PANEL, panel)]
        if wanted is not None and wanted[0] < wanted[1]:
            launches.append(self._logit_gradient(*wanted))
        return launches

    @functools.cached_property
    def _logits(self) -> dict[str, Any]:
        """The logit arguments. ``VECTOR`` is the largest number of elements, up to 16 bytes, that divides all sizes."""
        classes, strides = self.configuration.classes, self.configuration.strides
        widest = 16 // min(dtype.itemsize for dtype in self.configuration.dtypes)
        vector = math.gcd(widest, classes, *strides)
        sizes = LogitSizes(self.configuration.samples, classes // vector, *(stride // vector for stride in strides))
        return {"sizes": sizes, "VECTOR": vector}

    @property
    def _logits_in_elements(self) -> dict[str, Any]:
        """These without known alignment, so that neighbouring classes go to neighbouring threads, not to the same one."""
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
            # Unaligned rows are read one logit at a time, which would need more registers than a thread has.
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

    def _sums_of_similarities(self) -> Launch:
        """The sums over all similarities, and the exponentials that are kept."""
        plan, terms = self.plan, self.configuration.terms
        return self._similarities(
            Panel(0, plan.class_tiles, 0, plan.class_tiles) if terms.WITH_CLASS else NO_PANEL,
            Panel(0, plan.sample_tiles, 0, plan.sample_tiles) if terms.WITH_SAMPLE else NO_PANEL,
            summed=False,
        )

    def _derivatives(self, classes: Panel, samples: Panel) -> Launch:
        """A panel of the derivatives, from recomputed similarities."""
        return self._similarities(classes, samples, summed=True)

    def _similarities(self, classes: Panel, samples: Panel, *, summed: bool) -> Launch:
        return self._products(
            similarity_kernel,
            tiles_of(classes) + tiles_of(samples),
            {
                "class_panel": unspecialised(classes),
                "sample_panel": unspecialised(samples),
                "kept_class_rows": unspecialised(TileRows(*self.kept_classes[:2])),
                "kept_sample_rows": unspecialised(TileRows(*self.kept_samples[:2])),
                "BY_LABEL": self.configuration.by_label,
                "CENTRED": self.configuration.centred,
                "SUMMED": summed,
                **self.configuration.terms.sides,
            },
        )

    def _derivatives_of_kept(self) -> Launch:
        plan = self.plan
        return Launch(
            derivative_tiles,
            [tiles_of(self.kept_classes) + tiles_of(self.kept_samples)],
            {
                **self.padded,
                **self.units,
                **self.configuration.terms.sides,
                **self.added_up,
                "held": self.held,
                "class_panel": unspecialised(self.kept_classes),
                "sample_panel": unspecialised(self.kept_samples),
                "BY_LABEL": self.configuration.by_label,
                "MOST_TILES": plan.most_tiles,
            },
            {"num_warps": plan.warps},
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

    def _slopes(self, classes: Panel, samples: Panel, *, with_loss: bool = False) -> Launch:
        """The slopes of these panels, optionally with the loss."""
        plan = self.plan
        longer = triton.next_power_of_2(max(plan.padded_samples, plan.padded_classes))
        return self._products(
            slope_kernel,
            with_loss + classes.rows * plan.sample_tiles + samples.rows * plan.class_tiles,
            {
                "loss_programs": int(with_loss),
                "class_panel": unspecialised(classes),
                "sample_panel": unspecialised(samples),
                **self.configuration.terms._asdict(),
                **self.added_up,
                "SMOOTHED": self.configuration.smoothed,
                "MOST_TILES": plan.most_tiles,
                "LOSS_BLOCK": max(128, min(1024, longer // 4)),
            },
        )

    def _products(self, kernel: Any, programs: int, arguments: dict[str, Any]) -> Launch:
        """A launch of a matrix-product kernel, whose pipeline may be autotuned."""
        options = {"num_warps": self.plan.warps, "num_stages": self.plan.stages}
        arguments = {**arguments, **self.padded, **self.units, "held": self.held}
        if planning.AUTOTUNE:
            return Launch(kernel, [programs], arguments)
        return Launch(kernel, [programs], {**arguments, "STEP": self.plan.step}, options)

    def _logit_gradient(self, first: int, stop: int) -> Launch:
        tile = self.plan.gradient_logits
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
                "SAMPLES": tile.samples,
                "CLASSES": tile.classes,
            },
            {"num_warps": tile.warps},
        )
