"""The plan of a call: what is kept and what is recomputed in panels, tile shapes, warps and pipeline stages.

Everything here is a heuristic on the batch, the precision and the target. With ``BICKD_AUTOTUNE=1`` in the environment,
Triton instead autotunes the pipelines of the matrix products, once for each padded shape.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton

from bickd_kernels.backends.triton.contrast import Panel

CACHED_BYTES = 16 * 2**20
"""Up to this size, a side's ``E`` stays in a cache, so it is kept for the derivatives, which need it again."""

KEPT_BYTES = 64 * 2**20
"""Up to this size, a larger ``E`` is kept if recomputing the product takes longer than writing and reading ``E``."""

LONG_PRODUCT = 512
"""Recomputing takes longer if vector entries times fp16 GEMMs per product reach this number."""

PANEL_BYTES = 64 * 2**20
"""The largest panel of derivatives of a side whose ``E`` is not kept; they are computed panel by panel."""

RESIDENT_SAMPLES = 1024
"""Class statistics read batches of up to this many samples only once."""

MAX_TILES = 32
"""With more tiles than this along a side, a separate launch adds up its partial sums."""

MANY_PROGRAMS = 100
"""This many tiles of 128 keep a GPU busy."""

FEW = 16
"""With fewer samples or classes than this, products are always split-fp16, which costs nothing there."""

AUTOTUNE = os.environ.get("BICKD_AUTOTUNE", "0") == "1"
"""Read once, when this backend computes its first loss."""


class Target(NamedTuple):
    """The compilation target: ``"cuda"`` or ``"hip"``, and the compute capability (90) or architecture (gfx942)."""

    backend: str
    arch: str
    warp_size: int

    def warps(self, threads: int) -> int:
        """The number of warps with this many threads in total."""
        return max(1, threads // self.warp_size)


class LogitTile(NamedTuple):
    """The tile of logits that a program processes at a time."""

    samples: int
    classes: int
    warps: int
    """Warps of the program."""


class Plan(NamedTuple):
    """Launch parameters. The batch is padded to whole tiles."""

    parts: int
    """float16 numbers per entry of a unit vector: 1, or 2 for split-fp16 products with float32-level error."""
    tile: int
    """Edge length of a tile: vectors by vectors for similarities, vectors by entries for slopes."""
    step: int
    """Size of a product's step along the summed dimension: entries of the vectors, or vectors."""
    padded_samples: int
    """Samples, rounded up to whole tiles."""
    padded_classes: int
    """Classes, rounded up to whole tiles."""
    sample_logits: LogitTile
    """The tile of sample statistics."""
    gradient_logits: LogitTile
    """The tile of the logit gradient."""
    class_logits: LogitTile
    """The tile of class statistics."""
    most_tiles: int
    """Tiles along the longest side without a launch of ``partial_sums``, rounded up to a power of 2."""
    warps: int
    """Warps of the two matrix-product kernels."""
    stages: int
    """Pipeline stages of these kernels."""

    @property
    def sample_tiles(self) -> int:
        """The number of tiles along the samples."""
        return self.padded_samples // self.tile

    @property
    def class_tiles(self) -> int:
        """The number of tiles along the classes."""
        return self.padded_classes // self.tile

    @property
    def class_panels(self) -> list[Panel]:
        """The panels in which derivatives of the class side are computed; a single one if its ``E`` is kept."""
        return self._panels(0, self.class_tiles, self.class_tiles, self.padded_samples)

    def sample_panels(self, first: int, stop: int) -> list[Panel]:
        """The panels of the sample side, for the gradient of samples ``first`` to ``stop``."""
        first_row = first // self.tile
        rows = -(-stop // self.tile) - first_row
        return self._panels(first_row, rows, self.sample_tiles, self.padded_classes)

    def _panels(self, first_row: int, rows: int, tiles: int, length: int) -> list[Panel]:
        """Panels of some tile rows of a similarity matrix of ``tiles ** 2`` tiles, from vectors of ``length`` entries."""
        entries = self.tile * self.tile
        long_product = length * products_of(self.parts) >= LONG_PRODUCT
        if 4 * entries * rows * tiles <= (KEPT_BYTES if long_product else CACHED_BYTES):
            return [Panel(first_row, rows, 0, tiles)]
        columns = min(tiles - 1, max(1, PANEL_BYTES // (2 * self.parts * entries * rows)))
        return [Panel(first_row, rows, start, min(columns, tiles - start)) for start in range(0, tiles, columns)]

    def added_up(self, tiles: int, panels: Sequence[Panel]) -> bool:
        """Whether a separate launch adds up the partial sums of a side."""
        return tiles > MAX_TILES or len(panels) > 1


def current_target() -> Target:
    """The target of the current device."""
    driver = triton.runtime.driver.active
    return _target_of(driver, driver.get_current_device())


@functools.lru_cache
def _target_of(driver: Any, _device: int) -> Target:
    target = driver.get_current_target()
    return Target(target.backend, str(target.arch), target.warp_size)


def float32_products_lowered() -> bool:
    """Whether ``torch.set_float32_matmul_precision`` allows reduced precision for float32 products."""
    return torch.get_float32_matmul_precision() != "highest"


def parts_of(
    dtype: torch.dtype,
    samples: int,
    classes: int,
    temperature: float,
    contrast_temperature: float,
    *,
    centred: bool = False,
) -> int:
    """float16 numbers per operand of a product: 1, or 2 for split-fp16 products with float32-level error.

    One has the precision of TF32: a gradient error below 1.5e-3 unless a temperature is sharp. That is enough for 16-bit
    logits, and for float32 logits if ``torch.set_float32_matmul_precision`` allows TF32. With few samples or classes,
    however, attraction and repulsion may cancel and leave only their errors. Correlations span a wider range than cosines,
    so the same contrast temperature makes them sharper.
    """
    narrow = dtype != torch.float32 or float32_products_lowered()
    sharp = contrast_temperature < (0.15 if centred else 0.1) or temperature < 1.0
    return 1 if narrow and not sharp and min(samples, classes) >= FEW else 2


def round_up(size: int, multiple: int) -> int:
    """The next multiple of ``multiple``."""
    return -(-size // multiple) * multiple


def tile_of_logits(samples: int, classes: int, target: Target, centred: bool) -> LogitTile:
    """A tile of whole rows of logits, or of long parts of them. A row within one warp is summed without a barrier.

    A warp takes as many rows as leave each thread four logits. For many samples with few classes, each program uses several
    warps, because it compares its samples with all others to count positives.
    """
    block = min(triton.next_power_of_2(classes), 2048)
    if centred and block >= 1024:
        # With one long row in a program, ptxas spills.
        return LogitTile(2, block, target.warps(block // 8))
    rows = max(1, min(4, 512 // block)) if samples > 1024 else 1
    warps = target.warps(32 * max(rows, block // 512))
    return LogitTile(max(rows, 4 * target.warp_size // block), block, warps)


def tile_of_gradient(samples: int, row: LogitTile, target: Target) -> LogitTile:
    """With many samples, a program takes several, because every program sums the projections of all classes."""
    rows = max(row.samples, 4 if samples >= 1024 else 2 if samples >= 256 else 1)
    block = min(row.classes, 2048 // rows)
    return LogitTile(rows, block, target.warps(rows * block // 8))


def tile_of_classes(resident: int, padded_classes: int, target: Target) -> LogitTile:
    """A tile of whole columns of logits, or of long parts of them, as wide as keeps one program per multiprocessor."""
    width = next((width for width in (16, 8) if padded_classes // width >= 128 and width * resident <= 4096), 4)
    # 16 logits of each network per thread: twice as many would spill with split-fp16 vectors.
    return LogitTile(resident, width, warps=target.warps(max(64, resident * width // 16)))


def products_of(parts: int) -> int:
    """The number of fp16 GEMMs per product: with split operands, the product of both low parts is left out."""
    return 1 if parts == 1 else 3


def tile_of_products(samples: int, classes: int, parts: int, target: Target) -> int:
    """Large tiles read less memory; small tiles give more programs."""
    programs = (-(-samples // 128)) ** 2 + (-(-classes // 128)) ** 2
    # Before Hopper, tensor-core operands are held in registers, and split operands would need too many.
    registers_suffice = parts == 1 or target.backend == "hip" or int(target.arch) >= 90
    return 128 if programs >= MANY_PROGRAMS and registers_suffice else 64


def plan(samples: int, classes: int, parts: int, target: Target, *, centred: bool = False) -> Plan:
    """Launch parameters for a batch; ``centred`` for correlations."""
    tile = tile_of_products(samples, classes, parts, target)
    padded_samples, padded_classes = round_up(samples, tile), round_up(classes, tile)
    resident = min(triton.next_power_of_2(padded_samples), RESIDENT_SAMPLES)
    row = tile_of_logits(samples, classes, target, centred)
    tiles = max(count for count in (padded_samples // tile, padded_classes // tile, 1) if count <= MAX_TILES)
    return Plan(
        parts=parts,
        tile=tile,
        step=64 if parts == 1 else 32,
        padded_samples=padded_samples,
        padded_classes=padded_classes,
        sample_logits=row,
        gradient_logits=tile_of_gradient(samples, row, target),
        class_logits=tile_of_classes(resident, padded_classes, target),
        most_tiles=triton.next_power_of_2(tiles),
        warps=8 if tile == 128 or target.warp_size == 64 else 4,
        stages=4 if target.backend == "cuda" else 3,
    )


def tunable(kernel: Any) -> Any:
    """A matrix-product kernel, with the plan's pipeline or the autotuned one."""
    if not AUTOTUNE:
        return kernel
    configurations = [
        triton.Config({"STEP": step}, num_warps=warps, num_stages=stages)
        for step in (32, 64)
        for warps in (4, 8)
        for stages in (2, 3, 4)
    ]
    return triton.autotune(configurations, key=["padded_classes", "padded_samples", "PARTS", "TILE"])(kernel)
