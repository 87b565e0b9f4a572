"""The general path on the host: scratch memory, and the launches in their order.

    row_statistics, class_statistics, similarity_tiles, [partial_sums], slope_tiles, logit_gradient

Five launches, six where there are many tiles. Only a similarity matrix beyond ``launch.KEPT_BYTES`` that is not formed
again on chip takes more: two for each of its panels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Result, Settings
from bickd_kernels.backends.triton import launch
from bickd_kernels.backends.triton.class_statistics import class_statistics
from bickd_kernels.backends.triton.contrast import similarity_tiles, slope_tiles
from bickd_kernels.backends.triton.launch import Logits, Plan, Terms, TileRows
from bickd_kernels.backends.triton.logit_gradient import logit_gradient
from bickd_kernels.backends.triton.partial_sums import partial_sums
from bickd_kernels.backends.triton.row_statistics import ROW_STATISTICS, row_statistics

similarity_kernel = launch.tunable(similarity_tiles)
slope_kernel = launch.tunable(slope_tiles)

NO_ROWS: TileRows = (0, 0)


class Side(NamedTuple):
    """Scratch memory of one side of the contrast, ``n`` vectors of ``d`` entries in tiles; empty what is not needed."""

    student: Tensor
    teacher: Tensor
    labels: Tensor
    weights: Tensor
    exponentials: Tensor
    partial_sums: Tensor
    sums: Tensor
    positives: Tensor
    slopes: Tensor
    projections: Tensor

    @property
    def similarity_arguments(self) -> tuple[Tensor, ...]:
        """What ``similarity_tiles`` takes of a side."""
        return (*self[:5], self.partial_sums, self.positives)

    @property
    def slope_arguments(self) -> tuple[Tensor, ...]:
        """What ``slope_tiles`` takes of a side."""
        return (*self[:5], self.sums, self.positives, self.slopes, self.projections)


class Problem(NamedTuple):
    """One call: its inputs, settings, launch parameters and scratch memory."""

    logits: Logits
    target: Tensor | None
    settings: Settings
    terms: Terms
    plan: Plan
    rows: Tensor
    columns: Tensor
    classes: Side
    samples: Side
    loss: Tensor
    unweighted: Tensor
    counts: Tensor


def compute(batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
    """Loss, terms and gradient in float32."""
    problem = _prepare(batch, settings, needs_gradient)
    terms, plan = problem.terms, problem.plan
    classes: TileRows = (0, plan.class_tiles) if terms.WITH_CLASS else NO_ROWS
    samples: TileRows = (0, plan.sample_tiles) if terms.WITH_SAMPLE else NO_ROWS
    class_panels = plan.class_panels if needs_gradient and terms.WITH_CLASS else []
    sample_panels = plan.sample_panels if needs_gradient and terms.WITH_SAMPLE else []

    _launch_statistics(problem)
    if classes != NO_ROWS or samples != NO_ROWS:
        keep_classes = len(class_panels) == 1 and not plan.recomputed
        _launch_similarities(problem, classes, samples, keep_classes, len(sample_panels) == 1)
        _launch_partial_sums(problem.classes)
        _launch_partial_sums(problem.samples)
    _launch_slopes(
        problem,
        class_panels[0] if len(class_panels) == 1 else NO_ROWS,
        sample_panels[0] if len(sample_panels) == 1 else NO_ROWS,
    )
    for panel in class_panels if len(class_panels) > 1 else []:
        _launch_similarities(problem, panel, NO_ROWS, True, False)
        _launch_slopes(problem, panel, NO_ROWS)
    for panel in sample_panels if len(sample_panels) > 1 else []:
        _launch_similarities(problem, NO_ROWS, panel, False, True)
        _launch_slopes(problem, NO_ROWS, panel)
    return Result(problem.loss, problem.unweighted, _launch_gradient(problem) if needs_gradient else None)


def _prepare(batch: Batch, settings: Settings, needs_gradient: bool) -> Problem:
    logits = launch.logits_of(batch.student, batch.teacher)
    terms = launch.terms_of(settings, batch.target)
    samples, classes = logits.student.shape
    parts = launch.parts_of(logits.student.dtype, settings, samples, classes)
    plan = launch.plan(samples, classes, parts, settings.contrast_temperature, launch.current_target())
    device = logits.student.device

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    return Problem(
        logits=logits,
        target=None if batch.target is None else batch.target.contiguous(),
        settings=settings,
        terms=terms,
        plan=plan,
        rows=empty(ROW_STATISTICS.value, plan.padded_samples),
        columns=empty(plan.padded_classes),
        classes=_side(plan, True, terms.WITH_CLASS, needs_gradient, device),
        samples=_side(plan, False, terms.WITH_SAMPLE, needs_gradient, device),
        loss=empty(),
        unweighted=empty(4),
        counts=empty(2),
    )


def _side(plan: Plan, of_classes: bool, computed: bool, needs_gradient: bool, device: torch.device) -> Side:
    """Scratch memory of the class side or the sample side, empty where it is not needed."""
    vectors, length = plan.padded_classes, plan.padded_samples
    panel_rows = 0 if plan.recomputed else plan.class_panels[0][1] * plan.tile
    projections = 1 if plan.recomputed else plan.sample_tiles
    if not of_classes:
        vectors, length = length, vectors
        panel_rows, projections = plan.sample_panels[0][1] * plan.tile, plan.class_tiles
    tiles = vectors // plan.tile
    added_up = tiles > launch.MAX_PARTIALS or (of_classes and plan.recomputed > 0)

    def empty(*shape: int, dtype: torch.dtype = torch.float32, needed: bool = computed) -> Tensor:
        return torch.empty(shape if needed else (0, *shape[1:]), dtype=dtype, device=device)

    gradient = computed and needs_gradient
    sums = empty(2, tiles, vectors)
    return Side(
        student=empty(plan.parts, vectors, length, dtype=torch.float16),
        teacher=empty(plan.parts, vectors, length, dtype=torch.float16),
        labels=empty(vectors, dtype=torch.int32, needed=True),
        weights=empty(vectors, needed=True),
        exponentials=empty(panel_rows, vectors, needed=gradient),
        partial_sums=sums,
        sums=empty(2, 1, vectors) if added_up else sums,
        positives=empty(tiles, tiles),
        slopes=empty(plan.padded_samples, plan.padded_classes, needed=gradient),
        projections=empty(projections, vectors, needed=gradient),
    )


def _launch_statistics(problem: Problem) -> None:
    logits, target, settings, terms, plan, rows, columns, classes, samples = problem[:9]
    row_statistics[(launch.round_up(plan.padded_samples, plan.row_rows) // plan.row_rows,)](
        logits.student,
        logits.teacher,
        # Kernels do not read targets where there are none; any tensor may stand in.
        logits.student if target is None else target,
        rows,
        samples.labels,
        samples.weights,
        logits.student.shape[0],
        *logits.sizes,
        plan.padded_samples,
        settings.ignore_index,
        settings.temperature,
        settings.kd_temperature,
        0,
        HAS_TARGET=target is not None,
        WITH_CE=terms.WITH_CE,
        WITH_KD=terms.WITH_KD,
        WITH_SAMPLE_SIDE=terms.WITH_SAMPLE,
        VECTOR=logits.vector,
        ROWS=plan.row_rows,
        BLOCK=plan.row_block,
        COUNT_BLOCK=256,
        num_warps=plan.row_warps,
    )
    if not (terms.WITH_KD or terms.WITH_CLASS or terms.WITH_SAMPLE):
        return
    class_statistics[(plan.padded_classes // plan.column_width,)](
        logits.student,
        logits.teacher,
        rows,
        samples.weights,
        columns,
        classes.labels,
        classes.weights,
        classes.student,
        classes.teacher,
        samples.student,
        samples.teacher,
        *logits.sizes,
        plan.padded_samples,
        plan.padded_classes,
        settings.temperature,
        0,
        WITH_CLASS=terms.WITH_CLASS,
        WITH_SAMPLE=terms.WITH_SAMPLE,
        VECTOR=logits.vector,
        PARTS=plan.parts,
        ROW_BLOCK=plan.column_rows,
        RESIDENT=plan.padded_samples <= plan.column_rows,
        WIDTH=plan.column_width,
        num_warps=plan.column_warps,
    )


def _launch_similarities(
    problem: Problem, classes: TileRows, samples: TileRows, keep_classes: bool, keep_samples: bool
) -> None:
    plan = problem.plan
    class_programs, sample_programs = classes[1] * plan.class_tiles, samples[1] * plan.sample_tiles
    launch.product(
        similarity_kernel,
        class_programs + sample_programs,
        plan,
        *problem.classes.similarity_arguments,
        *problem.samples.similarity_arguments,
        plan.padded_classes,
        plan.padded_samples,
        class_programs,
        classes[0],
        samples[0],
        keep_classes,
        keep_samples,
        problem.settings.contrast_temperature,
        0,
    )


def _launch_partial_sums(side: Side) -> None:
    if side.sums is not side.partial_sums and side.sums.numel():
        _, tiles, vectors = side.partial_sums.shape
        partial_sums[(launch.round_up(vectors, 256) // 256, 2)](side.partial_sums, side.sums, tiles, vectors, BLOCK=256)


def _launch_slopes(problem: Problem, classes: TileRows, samples: TileRows) -> None:
    """Slopes of these rows of tiles, and the loss with them."""
    plan, settings, terms = problem.plan, problem.settings, problem.terms
    class_programs = classes[1] * plan.sample_tiles
    if plan.recomputed:
        class_programs = classes[1] * plan.tile // plan.recomputed_tile
    launch.product(
        slope_kernel,
        1 + class_programs + samples[1] * plan.class_tiles,
        plan,
        *problem.classes.slope_arguments,
        *problem.samples.slope_arguments,
        problem.rows,
        problem.loss,
        problem.unweighted,
        problem.counts,
        plan.padded_classes,
        plan.padded_samples,
        problem.classes.sums.shape[1],
        problem.samples.sums.shape[1],
        problem.classes.positives.numel(),
        problem.samples.positives.numel(),
        class_programs,
        *classes,
        *samples,
        settings.contrast_temperature,
        settings.kd_temperature,
        *launch.weights_of(settings),
        0,
        **terms._asdict(),
        COUNT=plan.partials,
        RECOMPUTE=plan.recomputed,
        RECOMPUTE_TILE=plan.recomputed_tile,
    )


def _launch_gradient(problem: Problem) -> Tensor:
    """The gradient by the student's logits, ``(B, C)`` in float32."""
    logits, target, settings, terms = problem.logits, problem.target, problem.settings, problem.terms
    samples, classes = logits.student.shape
    tile_rows, block, warps = launch.row_tile(classes, 2048)
    gradient = torch.empty((samples, classes), dtype=torch.float32, device=logits.student.device)
    logit_gradient[(launch.round_up(samples, tile_rows) // tile_rows,)](
        logits.student,
        logits.teacher,
        logits.student if target is None else target,
        problem.rows,
        problem.samples.weights,
        problem.columns,
        problem.classes.weights,
        problem.classes.slopes,
        problem.classes.projections,
        problem.samples.slopes,
        problem.samples.projections,
        problem.counts,
        gradient,
        samples,
        *logits.sizes,
        problem.plan.padded_samples,
        problem.plan.padded_classes,
        problem.classes.projections.shape[0],
        problem.samples.projections.shape[0],
        settings.temperature,
        settings.contrast_temperature,
        settings.kd_temperature,
        *launch.weights_of(settings),
        0,
        **terms._asdict(),
        VECTOR=logits.vector,
        ROWS=tile_rows,
        BLOCK=block,
        num_warps=warps,
    )
    return gradient
