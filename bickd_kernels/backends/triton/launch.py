"""Launch parameters: what is kept and what is formed again, shapes of tiles, warps and pipeline stages.

Everything here is a heuristic on the batch, the precision and the target. ``BICKD_AUTOTUNE=1`` in the environment lets
Triton measure the pipelines of the matrix products instead, once for each padded shape.
"""

import math
import os
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from bickd_kernels.backends.contract import Settings

KEPT_CLASSES = 2048
"""Up to here ``E`` of the class side (16 MB) is kept from its sums to the gradient: reading it is cheaper than a product."""

KEPT_BYTES = 64 * 2**20
"""The most that is ever kept of a similarity matrix. Beyond, it is formed again: on chip, or in panels of this size."""

RECOMPUTED_ENTRIES = 512
"""Class vectors of up to this many float16 numbers fit on chip, so that their similarities need not be kept."""

RESIDENT_SAMPLES = 1024
"""Batches up to this are read once by class statistics."""

MAX_PARTIALS = 32
"""With more tiles than this, partial sums are added up by a launch of their own."""

SHARP = 0.1
"""Contrast temperatures below this magnify what similarities lose: products get float32 grade, and ``E`` is not formed
again, as what is summed and what is divided by the sum would differ by their rounding."""

FEW = 16
"""Fewer samples or classes than this get products of float32 grade, which cost nothing there."""

AUTOTUNE = os.environ.get("BICKD_AUTOTUNE", "0") == "1"
"""Read once, when the first loss is computed by this backend."""

TRITON_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])

SMALL = 128
"""Up to this many samples and classes, one program computes everything in one launch."""


class Target(NamedTuple):
    """What the kernels are compiled for: ``"cuda"`` or ``"hip"``, the compute capability (90) or name (gfx942)."""

    backend: str
    arch: str
    warp_size: int

    def warps(self, threads: int) -> int:
        """The number of warps that have this many threads."""
        return max(1, threads // self.warp_size)


class Terms(NamedTuple):
    """Which terms are computed, by the names that the kernels have for it."""

    WITH_CE: bool
    WITH_KD: bool
    WITH_CLASS: bool
    WITH_SAMPLE: bool


class Logits(NamedTuple):
    """Logits with contiguous rows, which are all aligned to ``vector`` elements."""

    student: Tensor
    teacher: Tensor
    vector: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The kernels' ``classes_v, student_stride_v, teacher_stride_v``."""
        stride, teacher_stride = self.student.stride(0), self.teacher.stride(0)
        return self.student.shape[1] // self.vector, stride // self.vector, teacher_stride // self.vector


TileRows = tuple[int, int]
"""The first row of tiles, and how many."""


class Plan(NamedTuple):
    """Launch parameters of the general path. A batch is padded to whole tiles."""

    parts: int
    tile: int
    step: int
    padded_samples: int
    padded_classes: int
    row_rows: int
    row_block: int
    row_warps: int
    column_width: int
    column_rows: int
    column_warps: int
    partials: int
    recomputed: int
    recomputed_tile: int
    warps: int
    stages: int

    @property
    def sample_tiles(self) -> int:
        """Tiles along the samples."""
        return self.padded_samples // self.tile

    @property
    def class_tiles(self) -> int:
        """Tiles along the classes."""
        return self.padded_classes // self.tile

    @property
    def sample_panels(self) -> list[TileRows]:
        """The panels in which ``E`` of the sample side is kept."""
        return panels(self.sample_tiles, self.tile)

    @property
    def class_panels(self) -> list[TileRows]:
        """The panels in which ``E`` of the class side is kept, or one of all tiles where it is formed again on chip."""
        return [(0, self.class_tiles)] if self.recomputed else panels(self.class_tiles, self.tile)


def current_target() -> Target:
    """The target of the current device."""
    target = triton.runtime.driver.active.get_current_target()
    return Target(target.backend, str(target.arch), target.warp_size)


def float32_products_lowered() -> bool:
    """Whether ``torch.set_float32_matmul_precision`` allows products of float32 numbers to be less exact."""
    return torch.get_float32_matmul_precision() != "highest"


def parts_of(dtype: torch.dtype, settings: Settings, samples: int, classes: int) -> int:
    """How many float16 numbers an operand of a product is made of: 1, or 2 for products of float32 grade.

    One has the precision of TF32, an error of the gradient below 1.5e-3 where neither temperature sharpens it. It is
    enough for 16-bit logits, and for float32 logits where ``torch.set_float32_matmul_precision`` allows TF32. Of a few
    samples or classes, though, pulls and pushes may cancel, and their errors are all that is left.
    """
    narrow = dtype != torch.float32 or float32_products_lowered()
    sharp = settings.contrast_temperature < SHARP or settings.temperature < 1.0
    return 1 if narrow and not sharp and min(samples, classes) >= FEW else 2


def terms_of(settings: Settings, target: Tensor | None) -> Terms:
    """The terms of a call: those with a weight, and cross-entropy only with targets."""
    ce, kd, class_wise, sample_wise = settings.computed
    return Terms(ce and target is not None, kd, class_wise, sample_wise)


def weights_of(settings: Settings) -> list[float]:
    """The weights as the kernels take them; a term that is not computed has weight 0."""
    return list(settings.weights)


def logits_of(student: Tensor, teacher: Tensor) -> Logits:
    """Logits as the kernels read them: copied only where the classes of a row are strided.

    ``vector`` is the largest number of elements, up to 16 bytes, that divides ``C`` and the strides. Kernels get these
    sizes divided by it: Triton derives the width of loads from what divides an offset, and sees of a run-time number only
    whether 16 does.
    """
    student, teacher = (logits if logits.stride(1) == 1 else logits.contiguous() for logits in (student, teacher))
    widest = 16 // min(student.element_size(), teacher.element_size())
    return Logits(student, teacher, math.gcd(widest, student.shape[1], student.stride(0), teacher.stride(0)))


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def row_tile(classes: int, elements: int) -> tuple[int, int, int]:
    """Samples and classes of a tile of ``elements`` logits, whole rows or long parts of them, and warps for it."""
    block = min(triton.next_power_of_2(classes), 1024)
    return max(1, min(16, elements // block)), block, 4


def plan(samples: int, classes: int, parts: int, contrast_temperature: float, target: Target) -> Plan:
    """Launch parameters for a batch."""
    tile = 64 if max(samples, classes) <= 1024 else 128
    padded_samples, padded_classes = round_up(samples, tile), round_up(classes, tile)
    fits = samples * parts <= RECOMPUTED_ENTRIES
    recomputed = padded_classes > KEPT_CLASSES and fits and contrast_temperature >= SHARP
    if recomputed:
        padded_samples = max(tile, triton.next_power_of_2(samples))
    row_rows, row_block, row_warps = row_tile(classes, 2048)
    column_rows = min(triton.next_power_of_2(padded_samples), RESIDENT_SAMPLES)
    # 16 logits of each network a thread: more do not stay in registers.
    column_width = 16 if column_rows <= 256 else 4 if column_rows * parts > 1024 else 8
    # The tile and the vectors it is multiplied with have to fit into registers and shared memory together.
    recomputed_tile = 16 if target.backend == "hip" else 64 if padded_samples <= 256 and parts == 1 else 32
    tiles = max(count for count in (padded_samples // tile, padded_classes // tile, 1) if count <= MAX_PARTIALS)
    return Plan(
        parts=parts,
        tile=tile,
        step=32,
        padded_samples=padded_samples,
        padded_classes=padded_classes,
        row_rows=row_rows,
        row_block=row_block,
        row_warps=row_warps,
        column_width=column_width,
        column_rows=column_rows,
        column_warps=target.warps(max(128, column_rows * column_width // 16)),
        partials=triton.next_power_of_2(tiles),
        recomputed=padded_samples if recomputed else 0,
        recomputed_tile=recomputed_tile,
        warps=8 if tile == 128 or target.warp_size == 64 else 4,
        stages=3,
    )


def is_small(samples: int, classes: int, target: Target) -> bool:
    """Whether one program computes the whole batch."""
    # Triton 3.6 fails to compile it for AMD.
    compiles = target.backend == "cuda" or TRITON_VERSION >= (3, 7)
    return max(samples, classes) <= SMALL and compiles


class SmallPlan(NamedTuple):
    """Launch parameters of the small path."""

    tile: int
    step: int
    padded_samples: int
    padded_classes: int
    row_rows: int
    column_width: int
    partials: int
    warps: int
    stages: int


def small_plan(samples: int, classes: int, parts: int, target: Target) -> SmallPlan:
    """Launch parameters for a batch of at most ``SMALL`` samples and classes."""
    tile = 64
    padded_samples, padded_classes = round_up(samples, tile), round_up(classes, tile)
    return SmallPlan(
        tile=tile,
        step=32,
        padded_samples=padded_samples,
        padded_classes=padded_classes,
        row_rows=32,
        column_width=32,
        partials=max(padded_samples, padded_classes) // tile,
        warps=8,
        stages=2,
    )


def panels(tiles: int, tile: int) -> list[TileRows]:
    """The panels of rows of tiles in which a similarity matrix of ``tiles ** 2`` tiles is kept within the budget."""
    rows = max(1, min(tiles, KEPT_BYTES // (4 * tile * tile * tiles)))
    return [(first, min(rows, tiles - first)) for first in range(0, tiles, rows)]


def tunable(kernel: Any) -> Any:
    """A kernel of matrix products as ``product`` launches it."""
    if not AUTOTUNE:
        return kernel
    configurations = [
        triton.Config({"STEP": step}, num_warps=warps, num_stages=stages)
        for step in (32, 64)
        for warps in (4, 8)
        for stages in (2, 3, 4)
    ]
    return triton.autotune(configurations, key=["padded_classes", "padded_samples", "PARTS", "TILE"])(kernel)


def product(kernel: Any, programs: int, plan: Plan, *arguments: Any, **constants: Any) -> None:
    """Launches a ``tunable`` kernel, with the plan's pipeline or the one that was measured to be the fastest."""
    constants.update(PARTS=plan.parts, TILE=plan.tile)
    if not AUTOTUNE:
        constants.update(STEP=plan.step, num_warps=plan.warps, num_stages=plan.stages)
    kernel[(programs,)](*arguments, **constants)
