"""Bytes, flops and programs of the kernels by formula, for a whole training loss (``bickd_loss``) with targets.

``n`` and ``m`` are samples and classes padded to whole tiles. *Requested* bytes are what the programs load and store,
re-reads included, which a cache serves for the most part; the tests of the kernels hold these formulas to the byte against
counted accesses. *Compulsory* bytes touch every buffer of a launch once: what has to cross the memory bus at least, where
nothing survives in a cache from one launch to the next.
"""

from typing import NamedTuple

from bickd_kernels.backends.triton import planning
from bickd_kernels.backends.triton.scratch import SAMPLE_STATISTICS

TARGET = planning.Target("cuda", "90", 32)
"""The tiles are the same for every GPU of NVIDIA."""


class Work(NamedTuple):
    """What one launch moves and computes, and in how many programs, which is None for a launch of PyTorch."""

    kernel: str
    requested: int
    compulsory: int
    flops: int
    programs: int | None


def training_step(samples: int, classes: int, logit_bytes: int, parts: int, *, centred: bool = False) -> list[Work]:
    """The launches of forward and backward, the exponentials of both sides kept or those of classes not.

    Args:
        samples: ``B``.
        classes: ``C``.
        logit_bytes: bytes of a logit, the same for student, teacher and gradient.
        parts: how many float16 numbers an operand of a product is made of, 1 or 2.
        centred: whether vectors are centred, for correlations.
    """
    plan = planning.plan(samples, classes, parts, TARGET)
    works = [
        _sample_statistics(plan, samples, classes, logit_bytes, centred),
        _class_statistics(plan, samples, classes, logit_bytes, centred),
    ]
    works.append(_similarity_tiles(plan))
    if plan.recomputed:
        # Each part is read and each sum written once, of both kinds.
        moved = 8 * plan.padded_classes * (plan.class_tiles + 1)
        works.append(Work("partial_sums", moved, moved, 0, programs=2 * -(-plan.padded_classes // 256)))
    works.append(_slope_tiles(plan, samples))
    works.append(_logit_gradient(plan, samples, classes, logit_bytes, centred))
    works.append(_scale(samples, classes, logit_bytes))
    return works


def _sample_statistics(plan: planning.Plan, samples: int, classes: int, logit_bytes: int, centred: bool) -> Work:
    n = plan.padded_samples
    logits = samples * classes * logit_bytes
    # Labels have no mass of their own to be kept, and cosines no shifts; label and member come with the statistics.
    results = 4 * n * (int(SAMPLE_STATISTICS.value) - (1 if centred else 3) + 2)
    # Labels are read to see which are ignored and for the cross-entropy; every block of rows counts positives among all.
    blocks = -(-n // plan.sample_logits.samples)
    return Work(
        "sample_statistics",
        requested=2 * logits + results + 8 * samples * (2 + blocks),
        compulsory=2 * logits + results + 8 * samples,
        flops=0,
        programs=blocks,
    )


def _class_statistics(plan: planning.Plan, samples: int, classes: int, logit_bytes: int, centred: bool) -> Work:
    n, m = plan.padded_samples, plan.padded_classes
    reads = 1 if n <= plan.class_logits.samples else 2
    logits = samples * classes * logit_bytes
    results = 4 * _units(plan) + (16 if centred else 12) * m
    # Every block of classes reads what stage 1 found out about every sample.
    blocks = m // plan.class_logits.classes
    statistics = 4 * (n + (8 if centred else 6) * samples)
    return Work(
        "class_statistics",
        requested=2 * reads * logits + results + blocks * statistics,
        compulsory=2 * logits + results + statistics,
        flops=0,
        programs=blocks,
    )


def _units(plan: planning.Plan) -> int:
    """Bytes of one network's unit vectors of one side."""
    return 2 * plan.parts * plan.padded_samples * plan.padded_classes


def _products(plan: planning.Plan) -> int:
    """Products of float16 matrices that make one product: three of the parts, without that of both low parts."""
    return 1 if plan.parts == 1 else 3


def _kept(plan: planning.Plan) -> tuple[int, int]:
    """Bytes of the exponentials that are kept of classes and of samples."""
    return 0 if plan.recomputed else 4 * plan.padded_classes**2, 4 * plan.padded_samples**2


def _similarity_tiles(plan: planning.Plan) -> Work:
    n, m, n_tiles, m_tiles = plan.padded_samples, plan.padded_classes, plan.sample_tiles, plan.class_tiles
    vectors, tiles = m_tiles * m + n_tiles * n, m_tiles**2 + n_tiles**2
    # Parts of both sums and of the positives; label and weight of the vectors of both operands.
    sums, positives, members = 8 * vectors, 4 * tiles, 16 * vectors
    return Work(
        "similarity_tiles",
        requested=2 * _units(plan) * (m_tiles + n_tiles) + sum(_kept(plan)) + sums + positives + members,
        compulsory=4 * _units(plan) + sum(_kept(plan)) + sums + positives + 8 * (n + m),
        flops=2 * n * m * (n + m) * _products(plan),
        programs=tiles,
    )


def _slope_tiles(plan: planning.Plan, samples: int) -> Work:
    n, m, n_tiles, m_tiles = plan.padded_samples, plan.padded_classes, plan.sample_tiles, plan.class_tiles
    units, (kept_classes, kept_samples) = _units(plan), _kept(plan)
    class_partials = 1 if plan.recomputed else m_tiles
    class_projections = 1 if plan.recomputed else n_tiles
    results = 8 * n * m + 4 * (m * class_projections + n * m_tiles)
    sums = 8 * (class_partials * m + n_tiles * n)
    positives = 4 * (m_tiles**2 + n_tiles**2)
    loss = sums + positives + 4 * (m + 2 * n + 4 * samples) + 28

    # The sample side: E and column sums for every tile of entries, V for every tile of vectors, U once more for h.
    sample_side = kept_samples * m_tiles + units * n_tiles + units
    sample_side += 4 * m_tiles * n_tiles * n * n_tiles + 8 * n_tiles * n * m_tiles + 8 * n * m_tiles
    if plan.recomputed:
        # Every tile of classes: all V with column sums, labels and weights, its own U for the product and for h.
        class_programs = m // plan.recomputed_tile
        class_side = class_programs * (units + 12 * m) + 2 * units + 12 * m
    else:
        class_programs = m_tiles * n_tiles
        class_side = kept_classes * n_tiles + units * m_tiles + units
        class_side += 4 * m_tiles * n_tiles * m * m_tiles + 8 * m_tiles * m * n_tiles + 8 * m * n_tiles
    class_products = 2 if plan.recomputed else 1
    return Work(
        "slope_tiles",
        requested=sample_side + class_side + results + loss,
        compulsory=kept_classes + kept_samples + 4 * units + results + loss + 8 * (n + m),
        flops=2 * n * m * (n + class_products * m) * _products(plan),
        # One more sums up the loss.
        programs=1 + class_programs + n_tiles * m_tiles,
    )


def _logit_gradient(plan: planning.Plan, samples: int, classes: int, logit_bytes: int, centred: bool) -> Work:
    m, m_tiles = plan.padded_classes, plan.class_tiles
    projections = 1 if plan.recomputed else plan.sample_tiles
    logits, slopes = samples * classes * logit_bytes, 4 * samples * classes
    in_blocks = min(m, -(-classes // plan.sample_logits.classes) * plan.sample_logits.classes)
    # Weight, length, shift and h of the classes, by every block of rows and twice.
    of_classes = 2 * 4 * classes + 2 * 4 * in_blocks * (1 + centred + projections) + 8
    of_samples = samples * (4 * (9 + centred + m_tiles) + 8)
    blocks = -(-samples // plan.sample_logits.samples)
    return Work(
        "logit_gradient",
        requested=3 * logits + 4 * slopes + blocks * of_classes + of_samples,
        compulsory=2 * logits + 3 * slopes + of_classes // 2 + of_samples,
        flops=0,
        programs=blocks,
    )


def _scale(samples: int, classes: int, logit_bytes: int) -> Work:
    """Backward: from the gradient in float32 to that of the student's dtype."""
    moved = samples * classes * (4 + logit_bytes) + 4
    return Work("scale of the gradient (PyTorch)", moved, moved, 0, programs=None)
