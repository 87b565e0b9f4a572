"""All stages in one launch: loss and gradient of a batch of at most ``launch.SMALL`` samples and classes.

A launch costs more than all the work of such a batch. One program runs the programs of every stage one after the other;
they meet through scratch memory that stays in the cache, behind barriers, each stage in buffers of its own. Logits are read
once by stages 1 and 2 and, for the gradient, twice (``x``) and once (``y``) by stage 5, from the cache; the gradient is
written once, in float32.

Grid: one program. Reads ``x``, ``y``, ``l``; writes ``loss``, ``terms`` and the gradient.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.class_statistics import class_statistics
from bickd_kernels.backends.triton.contrast import similarity_tiles, slope_tiles
from bickd_kernels.backends.triton.logit_gradient import logit_gradient
from bickd_kernels.backends.triton.row_statistics import ROW_STATISTICS, row_statistics


def scratch_elements(samples: int, classes: int, parts: int, tile: int) -> int:
    """How many float32 numbers ``small_problem`` needs as scratch memory, for padded sizes."""
    class_tiles, sample_tiles = classes // tile, samples // tile
    statistics = ROW_STATISTICS.value * samples + classes + 2 * (samples + classes)
    sums = (2 * classes + samples) * class_tiles + (2 * samples + classes) * sample_tiles
    # Two float16 numbers take the place of one float32; there are two networks and two kinds of vectors.
    units = 2 * parts * samples * classes
    tiles = classes * classes + samples * samples + 2 * samples * classes
    return statistics + sums + units + tiles + class_tiles**2 + sample_tiles**2 + 2


@triton.jit
def small_problem(
    student,  # in   (B, C) logits, rows student_stride_v * VECTOR apart
    teacher,  # in   (B, C) logits, rows teacher_stride_v * VECTOR apart
    target,  # in   (B,) int64; not read without HAS_TARGET
    gradient,  # out  (B, C) float32; with NEEDS_GRADIENT
    loss,  # out  () float32
    terms,  # out  (4,) float32
    scratch,  # (scratch_elements,) float32, between the stages
    samples,
    classes_v,
    student_stride_v,
    teacher_stride_v,
    ignore_index,
    temperature,
    contrast_temperature,
    kd_temperature,
    ce_weight,
    kd_weight,
    class_weight,
    sample_weight,
    HAS_TARGET: tl.constexpr,
    NEEDS_GRADIENT: tl.constexpr,
    WITH_CE: tl.constexpr,
    WITH_KD: tl.constexpr,
    WITH_CLASS: tl.constexpr,
    WITH_SAMPLE: tl.constexpr,
    SAMPLES: tl.constexpr,  # samples and classes padded to whole tiles
    CLASSES: tl.constexpr,
    VECTOR: tl.constexpr,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    CLASS_TILES: tl.constexpr = CLASSES // TILE
    SAMPLE_TILES: tl.constexpr = SAMPLES // TILE
    UNITS: tl.constexpr = PARTS * SAMPLES * CLASSES // 2
    half = tl.pointer_type(tl.float16)
    integer = tl.pointer_type(tl.int32)
    # Buffers of vectors of 16 bytes first, so that all of them are aligned.
    class_student = scratch.to(half)
    class_teacher = (scratch + UNITS).to(half)
    sample_student = (scratch + 2 * UNITS).to(half)
    sample_teacher = (scratch + 3 * UNITS).to(half)
    class_exponentials = scratch + 4 * UNITS
    sample_exponentials = class_exponentials + CLASSES * CLASSES
    class_slopes = sample_exponentials + SAMPLES * SAMPLES
    sample_slopes = class_slopes + SAMPLES * CLASSES
    rows = sample_slopes + SAMPLES * CLASSES
    columns = rows + ROW_STATISTICS * SAMPLES
    class_labels = (columns + CLASSES).to(integer)
    class_weights = columns + 2 * CLASSES
    class_sums = columns + 3 * CLASSES
    class_projections = class_sums + 2 * CLASS_TILES * CLASSES
    sample_labels = (class_projections + SAMPLE_TILES * CLASSES).to(integer)
    sample_weights = class_projections + SAMPLE_TILES * CLASSES + SAMPLES
    sample_sums = sample_weights + SAMPLES
    sample_projections = sample_sums + 2 * SAMPLE_TILES * SAMPLES
    class_positives = sample_projections + CLASS_TILES * SAMPLES
    sample_positives = class_positives + CLASS_TILES * CLASS_TILES
    counts = sample_positives + SAMPLE_TILES * SAMPLE_TILES

    for program in range(0, SAMPLES // ROWS):
        row_statistics(
            student, teacher, target, rows, sample_labels, sample_weights, samples, classes_v, student_stride_v,
            teacher_stride_v, SAMPLES, ignore_index, temperature, kd_temperature, program,
            HAS_TARGET, WITH_CE, WITH_KD, WITH_SAMPLE, VECTOR, ROWS, BLOCK, SAMPLES,
        )  # fmt: skip
    tl.debug_barrier()

    if WITH_KD or WITH_CLASS or WITH_SAMPLE:
        for program in range(0, CLASSES // WIDTH):
            class_statistics(
                student, teacher, rows, sample_weights, columns, class_labels, class_weights, class_student, class_teacher,
                sample_student, sample_teacher, classes_v, student_stride_v, teacher_stride_v, SAMPLES, CLASSES,
                temperature, program, WITH_CLASS, WITH_SAMPLE, VECTOR, PARTS, SAMPLES, True, WIDTH,
            )  # fmt: skip
        tl.debug_barrier()

    CLASS_PROGRAMS: tl.constexpr = CLASS_TILES * CLASS_TILES * WITH_CLASS
    if WITH_CLASS or WITH_SAMPLE:
        for program in range(0, CLASS_PROGRAMS + SAMPLE_TILES * SAMPLE_TILES * WITH_SAMPLE):
            similarity_tiles(
                class_student, class_teacher, class_labels, class_weights, class_exponentials, class_sums, class_positives,
                sample_student, sample_teacher, sample_labels, sample_weights, sample_exponentials, sample_sums,
                sample_positives, CLASSES, SAMPLES, CLASS_PROGRAMS, 0, 0, NEEDS_GRADIENT, NEEDS_GRADIENT,
                contrast_temperature, program, PARTS, TILE, STEP,
            )  # fmt: skip
        tl.debug_barrier()

    SLOPE_PROGRAMS: tl.constexpr = CLASS_TILES * SAMPLE_TILES * NEEDS_GRADIENT
    for program in range(0, 1 + SLOPE_PROGRAMS * (WITH_CLASS + WITH_SAMPLE)):
        slope_tiles(
            class_student, class_teacher, class_labels, class_weights, class_exponentials, class_sums, class_positives,
            class_slopes, class_projections, sample_student, sample_teacher, sample_labels, sample_weights,
            sample_exponentials, sample_sums, sample_positives, sample_slopes, sample_projections, rows, loss, terms, counts,
            CLASSES, SAMPLES, CLASS_TILES, SAMPLE_TILES, CLASS_TILES * CLASS_TILES, SAMPLE_TILES * SAMPLE_TILES,
            SLOPE_PROGRAMS * WITH_CLASS, 0, CLASS_TILES, 0, SAMPLE_TILES,
            contrast_temperature, kd_temperature, ce_weight, kd_weight, class_weight, sample_weight, program,
            WITH_CE, WITH_KD, WITH_CLASS, WITH_SAMPLE, PARTS, TILE, STEP, COUNT, 0, TILE,
        )  # fmt: skip

    if NEEDS_GRADIENT:
        tl.debug_barrier()
        for program in range(0, tl.cdiv(samples, ROWS)):
            logit_gradient(
                student, teacher, target, rows, sample_weights, columns, class_weights, class_slopes,
                class_projections, sample_slopes, sample_projections, counts, gradient, samples, classes_v,
                student_stride_v, teacher_stride_v, SAMPLES, CLASSES, SAMPLE_TILES, CLASS_TILES, temperature,
                contrast_temperature, kd_temperature, ce_weight, kd_weight, class_weight, sample_weight, program,
                WITH_CE, WITH_KD, WITH_CLASS, WITH_SAMPLE, VECTOR, ROWS, BLOCK,
            )  # fmt: skip
