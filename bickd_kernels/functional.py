"""The losses as functions: argument checks, then the backend of choice.

    bilateral = class_weight * class_wise + sample_weight * sample_wise
    bickd     = ce_weight * cross_entropy + kd_weight * kd + bilateral_weight * bilateral

The terms are defined in ``reference.py``.
"""

from typing import Literal, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from bickd_kernels import operator, reference
from bickd_kernels.arguments import BicKDOptions, BilateralOptions, check_settings
from bickd_kernels.autograd import GlobalLoss
from bickd_kernels.backends.contract import compute_dtype
from bickd_kernels.call import Call, check
from bickd_kernels.processes.group import ProcessGroup
from bickd_kernels.terms import BicKDTerms, BilateralTerms


@overload
def bilateral_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    return_terms: Literal[False] = False,
    **options: Unpack[BilateralOptions],
) -> Tensor: ...


@overload
def bilateral_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    return_terms: Literal[True],
    **options: Unpack[BilateralOptions],
) -> tuple[Tensor, BilateralTerms]: ...


def bilateral_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float = 2.0,
    contrast_temperature: float = 0.2,
    class_weight: float = 1.0,
    sample_weight: float = 1.0,
    ignore_index: int = -100,
    return_terms: bool = False,
    group: ProcessGroup | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, BilateralTerms]:
    """Contrasts student and teacher probabilities class by class and sample by sample.

    Classes are the last dimension. Of images or volumes ``(B, C, H, W)`` pass ``logits.movedim(1, -1)``: without targets, or
    with ``C = H = W``, nothing tells that layout from this one.

    Args:
        student_logits: ``(B, ..., C)``, float16, bfloat16, float32 or float64, any strides; leading dimensions are
            flattened into samples.
        teacher_logits: the same shape and device, its dtype may differ; gets no gradient.
        target: integer ``(B, ...)``. Samples of one class are positives of each other; without targets each sample is its
            own only positive. A sample of ``ignore_index`` is as if it were not in the batch.
        temperature: softens both softmaxes, positive (from 1e-6 to 1e6).
        contrast_temperature: sharpness of the contrast, ``>= 0.02`` (to 1e6).
        class_weight: weight of the class-wise side, finite (to 1e12 on either side of 0, as every weight).
        sample_weight: weight of the sample-wise side. A side of weight 0 is computed only for ``return_terms``.
        ignore_index: the target of samples to leave out.
        return_terms: also return the unweighted sides.
        group: processes of data-parallel training, whose batches are the parts of one: the loss is that of the
            concatenation, the same on every rank, and the gradient is ``k`` times its own for ``k`` ranks, as data-parallel
            training takes the mean over them. All ranks have to call, with the same options, classes and dtypes; the number
            of samples may differ and be 0. None: the loss of this process's batch alone.
        backend: ``"auto"``, ``"torch"``, ``"triton"`` or ``"reference"``; ``"auto"`` follows the environment variable
            ``BICKD_BACKEND``, and without it takes ``"triton"`` on a GPU (but for float64 and for a group) and ``"torch"``
            elsewhere.

    Returns:
        A scalar, float64 if either input is float64 and else float32, with a first (but no second) derivative by
        ``student_logits``, in their dtype; with ``return_terms`` the pair of it and ``BilateralTerms``, detached. An empty
        batch gives 0; a sample that is all -inf or holds NaN or +inf gives NaN. A class that student or teacher gives
        -inf in every sample is no class of the batch: it is left out of both softmaxes.

    Raises:
        TypeError: an argument of the wrong type, logits or a target of the wrong dtype.
        ValueError: shapes or devices that differ, a temperature out of range, on the CPU a target that names no class,
            ``"triton"`` for logits that are not on a GPU or in float64, or for a group; ranks of a group that differ in what
            they ask for.
        RuntimeError: a rank of the group that raised one of these, on the others; one that did not call within the group's
            time limit.
    """
    numbers = {
        "temperature": temperature,
        "contrast_temperature": contrast_temperature,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
    }
    call = check(
        student_logits, teacher_logits, target, numbers,
        ignore_index=ignore_index, return_terms=return_terms, group=group, backend=backend,
    )  # fmt: skip
    loss, terms = compute(call)
    return (loss, BilateralTerms(*terms[2:].unbind())) if return_terms else loss


@overload
def bickd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    return_terms: Literal[False] = False,
    **options: Unpack[BicKDOptions],
) -> Tensor: ...


@overload
def bickd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[BicKDOptions],
) -> tuple[Tensor, BicKDTerms]: ...


def bickd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    kd_temperature: float = 4.0,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    bilateral_weight: float = 4.0,
    temperature: float = 2.0,
    contrast_temperature: float = 0.2,
    class_weight: float = 1.0,
    sample_weight: float = 1.0,
    ignore_index: int = -100,
    return_terms: bool = False,
    group: ProcessGroup | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, BicKDTerms]:
    """Cross-entropy, distillation by KL divergence and the bilateral loss: a whole training loss in one call.

    Classes are the last dimension: of images or volumes ``(B, C, H, W)`` pass ``logits.movedim(1, -1)``.

    Args:
        student_logits: as for ``bilateral_loss``.
        teacher_logits: as for ``bilateral_loss``.
        target: integer ``(B, ...)``; a sample of ``ignore_index`` is as if it were not in the batch, in every term.
        kd_temperature: softens both softmaxes of the KL term, positive; the term is scaled by its square.
        ce_weight: weight of the cross-entropy with ``target``.
        kd_weight: weight of the KL term (summed over classes, mean over samples).
        bilateral_weight: weight of the bilateral loss.
        temperature, contrast_temperature, class_weight, sample_weight, ignore_index, group, backend: as for
            ``bilateral_loss``.
        return_terms: also return the unweighted terms.

    Returns:
        As for ``bilateral_loss``, the terms being ``BicKDTerms``.

    Raises:
        TypeError: as for ``bilateral_loss``, and a missing target.
        ValueError, RuntimeError: as for ``bilateral_loss``.
    """
    numbers = {
        "temperature": temperature,
        "contrast_temperature": contrast_temperature,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
        "kd_temperature": kd_temperature,
        "ce_weight": ce_weight,
        "kd_weight": kd_weight,
        "bilateral_weight": bilateral_weight,
    }
    call = check(
        student_logits, teacher_logits, target, numbers,
        ignore_index=ignore_index, return_terms=return_terms, group=group, backend=backend,
    )  # fmt: skip
    loss, terms = compute(call)
    return (loss, BicKDTerms(*terms.unbind())) if return_terms else loss


def compute(call: Call) -> tuple[Tensor, Tensor]:
    """Loss and terms ``(4,)`` of a checked call."""
    if call.backend == "reference":
        return reference.compute(call)
    student, teacher, target, numbers, ignore_index, wanted, backend, slices = call
    if slices is None:
        return operator.loss(student, teacher, target, operator.packed(numbers), ignore_index, wanted, backend)
    settings = check_settings(numbers, ignore_index=ignore_index, wanted=wanted)
    if slices.total == 0 or settings.nothing_computed:
        zero = student.new_zeros((), dtype=compute_dtype(student, teacher))
        return student[:0].sum() + zero, zero.expand(4)
    needs_gradient = torch.is_grad_enabled() and student.requires_grad
    with torch.autocast(student.device.type, enabled=False):
        # No compiler traces what processes tell each other.
        apply = torch.compiler.disable(GlobalLoss.apply)
        loss, terms = apply(student, teacher, target, settings, slices, needs_gradient)
    return loss, terms
