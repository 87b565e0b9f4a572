"""Bytes, flops and programs of the kernels by formula, for a whole training loss (``bickd_loss``) with targets.

``n`` and ``m`` are samples and classes padded to whole tiles. *Requested* bytes are all bytes that the programs load and
store, including re-reads, most of which hit a cache; the kernel tests check these formulas to the byte against counted
accesses. *Compulsory* bytes touch every buffer of a launch once: the minimum that must cross the memory bus if nothing
survives in a cache from one launch to the next.
"""

from typing import NamedTuple

from bickd_kernels.backends.triton import planning
from bickd_kernels.backends.triton.contrast import Panel
from bickd_kernels.backends.triton.scratch import SAMPLE_STATISTICS

TARGET = planning.Target("cuda", "90", 32)
"""Any NVIDIA GPU: all have the same tiles."""


class Work(NamedTuple):
    """Bytes, flops and programs of one launch; ``programs`` is None for a launch of PyTorch."""

    kernel: str
    requested: int
    compulsory: int
    flops: int
    programs: int | None


def training_step(samples: int, classes: int, logit_bytes: int, parts: int, *, centred: bool = False) -> list[Work]:
    """The launches of forward and backward, in order.

    Args:
        samples: ``B``.
        classes: ``C``.
        logit_bytes: bytes per logit, the same for student, teacher and gradient.
        parts: float16 numbers per operand of a product, 1 or 2.
        centred: whether vectors are centred, for correlations.
    """
    plan = planning.plan(samples, classes, parts, TARGET, centred=centred)
    sides = _sides(plan, samples)
    kept = [side for side in sides if side.kept]
    works = [
        _sample_statistics(plan, samples, classes, logit_bytes, centred),
        _class_statistics(plan, samples, classes, logit_bytes, centred),
    ]
    works.append(_sums_of_similarities(plan, sides))
    works += [_partial_sums(side) for side in sides if side.added_up]
    if kept:
        works.append(_derivative_tiles(plan, [(side, side.panels[0]) for side in kept]))
    loss = _loss(plan, sides, samples)
    works.append(_slope_tiles(plan, [(side, side.panels[0]) for side in kept], loss))
    for side in sides:
        for panel in () if side.kept else side.panels:
            works += [_derivatives_formed_again(plan, side, panel), _slope_tiles(plan, [(side, panel)])]
    works.append(_logit_gradient(plan, samples, classes, logit_bytes, centred))
    works.append(_scale(samples, classes, logit_bytes))
    return works


class _Side(NamedTuple):
    """The class or sample vectors that are contrasted."""

    vectors: int
    """Number of vectors, in whole tiles."""
    length: int
    """Entries of a vector, in whole tiles."""
    tiles: int
    panels: list[Panel]
    added_up: bool
    """Whether a separate launch adds up the partial sums."""
    by_label: bool
    """Whether any tile may hold positives; otherwise only those on the diagonal do."""

    @property
    def kept(self) -> bool:
        return len(self.panels) == 1

    def with_positives(self, panel: Panel) -> int:
        """The number of tiles in a panel that may hold positives."""
        if self.by_label:
            return panel.rows * panel.columns
        return sum(panel.first_row <= tile < panel.first_row + panel.rows for tile in self._columns(panel))

    @staticmethod
    def _columns(panel: Panel) -> range:
        return range(panel.first_column, panel.first_column + panel.columns)


def _sides(plan: planning.Plan, samples: int) -> list[_Side]:
    n, m = plan.padded_samples, plan.padded_classes
    class_panels, sample_panels = plan.class_panels, plan.sample_panels(0, samples)
    return [
        _Side(m, n, plan.class_tiles, class_panels, plan.added_up(plan.class_tiles, class_panels), by_label=False),
        _Side(n, m, plan.sample_tiles, sample_panels, plan.added_up(plan.sample_tiles, sample_panels), by_label=True),
    ]


def _sample_statistics(plan: planning.Plan, samples: int, classes: int, logit_bytes: int, centred: bool) -> Work:
    n = plan.padded_samples
    logits = samples * classes * logit_bytes
    # Label targets store no mass, and cosines no shifts; label and member are stored with the statistics.
    results = 4 * n * (int(SAMPLE_STATISTICS.value) - (1 if centred else 3) + 2)
    # Labels are read for ignored samples and for the cross-entropy; every block of rows also counts positives among all.
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
    # Every block of classes reads the stage 1 statistics of every sample.
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
    """Bytes of one network's unit vectors on one side."""
    return 2 * plan.parts * plan.padded_samples * plan.padded_classes


def _flops(plan: planning.Plan, tiles: int, length: int) -> int:
    """Flops of the fp16 GEMMs for this many tiles of a product over ``length``."""
    return 2 * tiles * plan.tile**2 * length * planning.products_of(plan.parts)


def _sums_of_similarities(plan: planning.Plan, sides: list[_Side]) -> Work:
    units, requested, compulsory, flops, programs = _units(plan), 0, 0, 0, 0
    for side in sides:
        tiles = side.tiles**2
        results = 8 * side.tiles * side.vectors + 4 * tiles + (4 * side.vectors**2 if side.kept else 0)
        # Members of both operands; labels of both where positives are possible.
        members = 8 * plan.tile * (tiles + side.with_positives(Panel(0, side.tiles, 0, side.tiles)))
        requested += 2 * units * side.tiles + results + members
        compulsory += 2 * units + results + 8 * side.vectors
        flops += _flops(plan, tiles, side.length)
        programs += tiles
    return Work("similarity_tiles", requested, compulsory, flops, programs)


def _partial_sums(side: _Side) -> Work:
    # Row sums and column sums: each partial sum is read once, each sum written once.
    moved = 8 * side.vectors * (side.tiles + 1)
    return Work("partial_sums", moved, moved, 0, programs=2 * -(-side.vectors // 256))


def _derivatives(plan: planning.Plan, panel: Panel) -> int:
    """Bytes of a panel's derivatives."""
    return 2 * plan.parts * plan.tile**2 * panel.rows * panel.columns


def _weights(plan: planning.Plan, side: _Side, panel: Panel) -> int:
    """Bytes of the labels of both operands and one member, for each derivative tile that may hold positives."""
    return 12 * plan.tile * side.with_positives(panel)


def _derivative_tiles(plan: planning.Plan, kept: list[tuple[_Side, Panel]]) -> Work:
    requested, compulsory, programs = 0, 0, 0
    for side, panel in kept:
        tiles = panel.rows * panel.columns
        sums = 1 if side.added_up else side.tiles
        moved = 4 * plan.tile**2 * tiles + _derivatives(plan, panel)
        requested += moved + 8 * plan.tile * sums * tiles + _weights(plan, side, panel)
        compulsory += moved + 8 * side.vectors * sums + 8 * side.vectors
        programs += tiles
    return Work("derivative_tiles", requested, compulsory, 0, programs)


def _derivatives_formed_again(plan: planning.Plan, side: _Side, panel: Panel) -> Work:
    tiles = panel.rows * panel.columns
    operands = 2 * plan.parts * plan.tile * side.length
    derivatives = _derivatives(plan, panel)
    return Work(
        "similarity_tiles",
        requested=tiles * (2 * operands + 8 * plan.tile) + derivatives + _weights(plan, side, panel),
        compulsory=(panel.rows + panel.columns) * (operands + 4 * plan.tile) + derivatives + 8 * plan.tile * panel.columns,
        flops=_flops(plan, tiles, side.length),
        programs=tiles,
    )


def _loss(plan: planning.Plan, sides: list[_Side], samples: int) -> int:
    """Bytes of the loss program: sums, positives, members; statistics and members of the samples; the results."""
    of_sides = sum(8 * side.vectors * (1 if side.added_up else side.tiles) + 4 * side.tiles**2 for side in sides)
    return of_sides + 4 * sum(side.vectors for side in sides) + 4 * (plan.padded_samples + 4 * samples) + 28


def _slope_tiles(plan: planning.Plan, panels: list[tuple[_Side, Panel]], loss: int = 0) -> Work:
    requested, compulsory, flops, programs = loss, loss, 0, int(loss > 0)
    for side, panel in panels:
        entry_tiles = side.length // plan.tile
        tiles = panel.rows * entry_tiles
        slopes = 4 * plan.tile**2 * tiles * (1 if panel.first_column == 0 else 2)
        units = 2 * plan.parts * plan.tile * side.length
        results = slopes + units * panel.rows + 4 * plan.tile * tiles
        requested += _derivatives(plan, panel) * entry_tiles + units * panel.columns * panel.rows + results
        compulsory += _derivatives(plan, panel) + units * panel.columns + results
        flops += _flops(plan, tiles, panel.columns * plan.tile)
        programs += tiles
    return Work("slope_tiles", requested, compulsory, flops, programs)


def _logit_gradient(plan: planning.Plan, samples: int, classes: int, logit_bytes: int, centred: bool) -> Work:
    m, m_tiles = plan.padded_classes, plan.class_tiles
    logits, slopes = samples * classes * logit_bytes, 4 * samples * classes
    in_blocks = min(m, -(-classes // plan.gradient_logits.classes) * plan.gradient_logits.classes)
    # Weight, length, shift and h of the classes, read twice by every block of rows.
    of_classes = 2 * 4 * classes + 2 * 4 * in_blocks * (1 + centred + plan.sample_tiles) + 8
    of_samples = samples * (4 * (9 + centred + m_tiles) + 8)
    blocks = -(-samples // plan.gradient_logits.samples)
    return Work(
        "logit_gradient",
        requested=3 * logits + 4 * slopes + blocks * of_classes + of_samples,
        compulsory=2 * logits + 3 * slopes + of_classes // 2 + of_samples,
        flops=0,
        programs=blocks,
    )


def _scale(samples: int, classes: int, logit_bytes: int) -> Work:
    """Backward: converts the float32 gradient to the student's dtype."""
    moved = samples * classes * (4 + logit_bytes) + 4
    return Work("scale of the gradient (PyTorch)", moved, moved, 0, programs=None)
