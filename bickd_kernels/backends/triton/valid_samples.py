"""Stage 0, only for probability targets: finds the samples of the batch. A row of zeros is an ignored sample.

Grid: one program per ``SAMPLES`` samples. Reads the targets; writes the samples' ``members``.
"""

import triton
import triton.language as tl

from bickd_kernels.backends.triton.scratch import buffers


@triton.jit
def valid_samples(
    target,  # in   (B, C) of a floating dtype, contiguous
    scratch,  # out  members of the samples: 1, or 0 outside the batch
    sizes,  # LogitSizes
    padded_samples,
    padded_classes,
    VECTOR: tl.constexpr,
    SAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
):
    memory = buffers(
        scratch,
        samples=padded_samples.to(tl.int64),
        classes=padded_classes.to(tl.int64),
        PARTS=1,
        TILE=16,
        WITH_CLASS=False,
        WITH_SAMPLE=False,
    )
    classes = sizes.classes_v * VECTOR
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    target_row = target + sample.to(tl.int64)[:, None] * classes
    seen = tl.zeros((SAMPLES,), tl.int32)
    for start in range(0, classes, CLASSES):
        column = start + tl.arange(0, CLASSES)
        inside = (sample < sizes.samples)[:, None] & (column < classes)[None, :]
        seen |= tl.max((tl.load(target_row + column[None, :], mask=inside, other=0.0) != 0.0).to(tl.int32), axis=1)
    tl.store(memory.samples.members + sample, seen.to(tl.float32), mask=sample < padded_samples)
