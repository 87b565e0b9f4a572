"""The small path on the host: one launch for loss and gradient."""

import torch
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Result, Settings
from bickd_kernels.backends.triton import launch
from bickd_kernels.backends.triton.small_problem import scratch_elements, small_problem


def compute(batch: Batch, settings: Settings, needs_gradient: bool) -> Result:
    """Loss, terms and gradient in float32."""
    logits = launch.logits_of(batch.student, batch.teacher)
    samples, classes = logits.student.shape
    terms = launch.terms_of(settings, batch.target)
    parts = launch.parts_of(logits.student.dtype, settings, samples, classes)
    plan = launch.small_plan(samples, classes, parts, launch.current_target())
    elements = scratch_elements(plan.padded_samples, plan.padded_classes, parts, plan.tile)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=logits.student.device)

    loss, unweighted, scratch = empty(), empty(4), empty(elements)
    gradient = empty(samples, classes) if needs_gradient else scratch
    small_problem[(1,)](
        logits.student,
        logits.teacher,
        # The kernel does not read targets where there are none; any tensor may stand in.
        logits.student if batch.target is None else batch.target.contiguous(),
        gradient,
        loss,
        unweighted,
        scratch,
        samples,
        *logits.sizes,
        settings.ignore_index,
        settings.temperature,
        settings.contrast_temperature,
        settings.kd_temperature,
        *launch.weights_of(settings),
        HAS_TARGET=batch.target is not None,
        NEEDS_GRADIENT=needs_gradient,
        **terms._asdict(),
        SAMPLES=plan.padded_samples,
        CLASSES=plan.padded_classes,
        VECTOR=logits.vector,
        PARTS=parts,
        TILE=plan.tile,
        STEP=plan.step,
        COUNT=plan.partials,
        ROWS=plan.row_rows,
        BLOCK=plan.padded_classes,
        WIDTH=plan.column_width,
        num_warps=plan.warps,
        num_stages=plan.stages,
    )
    return Result(loss, unweighted, gradient if needs_gradient else None)
