"""The plan of a call: what is kept and what is formed in panels, shapes of tiles, warps and pipeline stages.

Everything here is a heuristic on the batch, the precision and the target. ``BICKD_AUTOTUNE=1`` in the environment lets
Triton measure the pipelines of the matrix products instead, once for each padded shape.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton

from bickd_kernels.backends.triton.contrast import Panel

CACHED_BYTES = 16 * 2**20
"""``E`` of a side up to this size stays in a cache: it is kept from its sums to the derivatives, which need it once more."""

KEPT_BYTES = 64 * 2**20
"""A larger ``E`` up to this size is kept where a product takes longer than to write it to memory and to read it back."""

LONG_PRODUCT = 512
"""A product of vectors of this many entries, times the float16 products that it is made of, takes that long."""

PANEL_BYTES = 64 * 2**20
"""The most that is held of the derivatives of a side whose ``E`` is not kept: they are formed panel by panel."""

RESIDENT_SAMPLES = 1024
"""Batches up to this are read once by class statistics."""

MAX_TILES = 32
"""With more tiles than this along a side, its partial sums are added up by a launch of their own."""

MANY_PROGRAMS = 100
"""As many tiles of 128 as this keep a GPU busy."""

FEW = 16
"""Fewer samples or classes than this get products of float32 grade, which cost nothing there."""

AUTOTUNE = os.environ.get("BICKD_AUTOTUNE", "0") == "1"
"""Read once, when the first loss is computed by this backend."""


class Target(NamedTuple):
    """What the kernels are compiled for: ``"cuda"`` or ``"hip"``, the compute capability (90) or name (gfx942)."""

    backend: str
    arch: str
    warp_size: int

    def warps(self, threads: int) -> int:
        """The number of warps that have this many threads."""
        return max(1, threads // self.warp_size)


class LogitTile(NamedTuple):
    """The logits that a program works on at a time."""

    samples: int
    classes: int
    warps: int
    """Of the program."""


class Plan(NamedTuple):
    """Launch parameters. A batch is padded to whole tiles."""

    parts: int
    """How many float16 numbers an entry of a unit vector is made of: 1, or 2 for products of float32 grade."""
    tile: int
    """Vectors along both sides of a tile of similarities; entries and vectors of a tile of slopes."""
    step: int
    """Entries of the vectors, or vectors, that a product takes at a time."""
    padded_samples: int
    """Samples in whole tiles."""
    padded_classes: int
    """Classes in whole tiles."""
    sample_logits: LogitTile
    """Of sample statistics."""
    gradient_logits: LogitTile
    """Of the logit gradient."""
    class_logits: LogitTile
    """Of class statistics."""
    most_tiles: int
    """Tiles along the longer side whose partial sums no launch of their own adds up, or the next power of 2."""
    warps: int
    """Of a program of the two kernels of matrix products."""
    stages: int
    """Of the pipelines of the same."""

    @property
    def sample_tiles(self) -> int:
        """Tiles along the samples."""
        return self.padded_samples // self.tile

    @property
    def class_tiles(self) -> int:
        """Tiles along the classes."""
        return self.padded_classes // self.tile

    @property
    def class_panels(self) -> list[Panel]:
        """The panels in which derivatives of the class side are formed; a single one if its ``E`` is kept."""
        return self._panels(0, self.class_tiles, self.class_tiles, self.padded_samples)

    def sample_panels(self, first: int, stop: int) -> list[Panel]:
        """The same of the sample side, where the gradient is wanted from one sample to another."""
        first_row = first // self.tile
        rows = -(-stop // self.tile) - first_row
        return self._panels(first_row, rows, self.sample_tiles, self.padded_classes)

    def _panels(self, first_row: int, rows: int, tiles: int, length: int) -> list[Panel]:
        """Of some rows of a similarity matrix of ``tiles ** 2`` tiles of vectors of ``length`` entries."""
        entries = self.tile * self.tile
        long_product = length * products_of(self.parts) >= LONG_PRODUCT
        if 4 * entries * rows * tiles <= (KEPT_BYTES if long_product else CACHED_BYTES):
            return [Panel(first_row, rows, 0, tiles)]
        columns = min(tiles - 1, max(1, PANEL_BYTES // (2 * self.parts * entries * rows)))
        return [Panel(first_row, rows, start, min(columns, tiles - start)) for start in range(0, tiles, columns)]

    def added_up(self, tiles: int, panels: Sequence[Panel]) -> bool:
        """Whether a launch of its own adds up the partial sums of a side."""
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
    """Whether ``torch.set_float32_matmul_precision`` allows products of float32 numbers to be less exact."""
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
    """How many float16 numbers an operand of a product is made of: 1, or 2 for products of float32 grade.

    One has the precision of TF32, an error of the gradient below 1.5e-3 where neither temperature sharpens it. It is
    enough for 16-bit logits, and for float32 logits where ``torch.set_float32_matmul_precision`` allows TF32. Of a few
    samples or classes, though, pulls and pushes may cancel, and their errors are all that is left. Correlations spread
    wider than cosines, and are sharper at the same contrast temperature.
    """
    narrow = dtype != torch.float32 or float32_products_lowered()
    sharp = contrast_temperature < (0.15 if centred else 0.1) or temperature < 1.0
    return 1 if narrow and not sharp and min(samples, classes) >= FEW else 2


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def tile_of_logits(samples: int, classes: int, target: Target, centred: bool) -> LogitTile:
    """A tile of a whole row of logits, or of long parts of it. Within a warp nothing waits for a sum over the row.

    A warp takes as many rows as leave each thread four logits. Of many samples with few classes each program takes several
    warps: it counts their positives among all.
    """
    block = min(triton.next_power_of_2(classes), 2048)
    if centred and block >= 1024:
        # With one long row in a program, ptxas spills.
        return LogitTile(2, block, target.warps(block // 8))
    rows = max(1, min(4, 512 // block)) if samples > 1024 else 1
    warps = target.warps(32 * max(rows, block // 512))
    return LogitTile(max(rows, 4 * target.warp_size // block), block, warps)


def tile_of_gradient(samples: int, row: LogitTile, target: Target) -> LogitTile:
    """Of many samples a program takes several, because every program adds up the projections of all classes."""
    rows = max(row.samples, 4 if samples >= 1024 else 2 if samples >= 256 else 1)
    block = min(row.classes, 2048 // rows)
    return LogitTile(rows, block, target.warps(rows * block // 8))


def tile_of_classes(resident: int, padded_classes: int, target: Target) -> LogitTile:
    """A tile of whole columns of logits, or of long parts of them: as wide as leaves a program for every multiprocessor."""
    width = next((width for width in (16, 8) if padded_classes // width >= 128 and width * resident <= 4096), 4)
    # 16 logits of each network a thread: twice as many do not stay in registers in float32 grade.
    return LogitTile(resident, width, warps=target.warps(max(64, resident * width // 16)))


def products_of(parts: int) -> int:
    """How many products of float16 matrices make one of operands in parts: that of both low parts is left out."""
    return 1 if parts == 1 else 3


def tile_of_products(samples: int, classes: int, parts: int, target: Target) -> int:
    """Large tiles read less, small ones are more programs."""
    programs = (-(-samples // 128)) ** 2 + (-(-classes // 128)) ** 2
    # Before Hopper, operands of tensor cores lie in registers, which are too few for those in parts.
    registers_suffice = parts == 1 or target.backend == "hip" or int(target.arch) >= 90
    return 128 if programs >= MANY_PROGRAMS and registers_suffice else 64


def plan(samples: int, classes: int, parts: int, target: Target, *, centred: bool = False) -> Plan:
    """Launch parameters for a batch, whose vectors are centred or not."""
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
    """A kernel of matrix products, with the plan's pipeline or the one that is measured to be the fastest."""
    if not AUTOTUNE:
        return kernel
    configurations = [
        triton.Config({"STEP": step}, num_warps=warps, num_stages=stages)
        for step in (32, 64)
        for warps in (4, 8)
        for stages in (2, 3, 4)
    ]
    return triton.autotune(configurations, key=["padded_classes", "padded_samples", "PARTS", "TILE"])(kernel)
