"""The losses as functions: they check their arguments and call the operator.

    bilateral = class_wise_weight * class_wise + sample_wise_weight * sample_wise
    bickd     = ce_weight * cross_entropy + kd_weight * kd + bilateral_weight * bilateral

The terms are defined in ``reference.py``, the defaults in ``options.py``.
"""

import inspect
from dataclasses import fields
from typing import Any, Literal, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from bickd_kernels import operator, reference
from bickd_kernels.backends import choice
from bickd_kernels.backends.contract import compute_dtype
from bickd_kernels.call import Call
from bickd_kernels.inputs import check_inputs
from bickd_kernels.options import KINDS, BicKDArguments, BilateralArguments, Options, make_options
from bickd_kernels.processes import global_batch
from bickd_kernels.processes.agreement import failure_told_to
from bickd_kernels.terms import BicKDTerms, BilateralTerms


@overload
def bilateral_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    return_terms: Literal[False] = False,
    **options: Unpack[BilateralArguments],
) -> Tensor: ...


@overload
def bilateral_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    return_terms: Literal[True],
    **options: Unpack[BilateralArguments],
) -> tuple[Tensor, BilateralTerms]: ...


def bilateral_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None, **options: Any
) -> Tensor | tuple[Tensor, BilateralTerms]:
    """Contrasts student and teacher probabilities class by class and sample by sample.

    Classes are the last dimension. For images or volumes ``(B, C, H, W)`` pass ``logits.movedim(1, -1)``; without targets,
    or with ``C = H = W``, the loss cannot detect the wrong layout.

    Args:
        student_logits: ``(B, ..., C)``, float16, bfloat16, float32 or float64, any strides; leading dimensions are
            flattened into samples.
        teacher_logits: the same shape and device; the dtype may differ. Gets no gradient.
        target: one of three. Integer labels ``(B, ...)``: samples of the same class are positives of each other, and samples
            labelled ``ignore_index`` are left out of the batch. Class probabilities ``(B, ..., C)`` of a floating dtype, as
            mixup produces them: each sample is its own only positive, and samples whose probabilities are all 0 are left
            out. None: each sample is its own only positive.

    Keyword Args:
        temperature: softens both softmaxes; positive (1e-6 to 1e6). Default 2.
        contrast_temperature: sharpness of the contrast; 0.02 to 1e6. Default 0.2.
        class_wise_weight: weight of the class-wise term; finite (-1e12 to 1e12, like every weight). Default 1.
        sample_wise_weight: weight of the sample-wise term. Default 1. A term of weight 0 is computed only for
            ``return_terms``.
        positives: which samples are positives of each other: ``"label"``, those of the same label, or ``"sample"``, each
            sample only itself. None, the default, means ``"label"`` where there are labels. With ``"sample"``, labels still
            say which samples to ignore.
        similarity: ``"cosine"``, the default, or ``"correlation"``, which centres vectors before scaling them to length 1.
        ignore_index: the label of samples to leave out. Default -100.
        return_terms: also return the unweighted terms. Default False.
        group: the processes of data-parallel training. The loss is that of the global batch, the concatenation of all
            ranks' batches, and is the same on every rank. For ``k`` ranks the gradient is scaled by ``k``, because
            data-parallel training averages gradients over ranks. All ranks must call with the same options, classes and
            dtypes; the number of samples may differ and may be 0. None, the default: the loss of this process's batch alone.
        compare_ranks: whether the ranks first exchange what they are about to compute, so that a mismatch is an error on
            every rank. False saves a round trip between the hosts; all ranks must then hold the same number of samples, and
            a rank that differs or fails leaves the others waiting. Default True.
        backend: ``"auto"``, ``"torch"``, ``"triton"`` or ``"reference"``. ``"auto"``, the default, follows the environment
            variable ``BICKD_BACKEND``; if that is not set, it selects ``"triton"`` on a GPU (except for float64) and
            ``"torch"`` otherwise.

    Returns:
        A scalar, float64 if either input is float64, otherwise float32. It has a first (but no second) derivative with
        respect to ``student_logits``, in their dtype. With ``return_terms``, a pair of this scalar and the detached
        ``BilateralTerms``. An empty batch gives 0; a sample that is all -inf or contains NaN or +inf gives NaN. A class that
        student or teacher sets to -inf in every sample does not belong to the batch and is left out of both softmaxes.

    Raises:
        TypeError: an argument of the wrong type; logits or a target of the wrong dtype.
        ValueError: shapes or devices that differ; an option out of range; on the CPU, a label that is not a class;
            ``"triton"`` for a batch it does not support; ranks of a group whose calls differ.
        RuntimeError: another rank of the group raised one of these errors, or did not call within the group's timeout.
    """
    return evaluate("bilateral_loss", options, student_logits, teacher_logits, target)


@overload
def bickd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    return_terms: Literal[False] = False,
    **options: Unpack[BicKDArguments],
) -> Tensor: ...


@overload
def bickd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[BicKDArguments],
) -> tuple[Tensor, BicKDTerms]: ...


def bickd_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, **options: Any
) -> Tensor | tuple[Tensor, BicKDTerms]:
    """Cross-entropy, KL distillation and the bilateral loss: the complete training loss in one call.

    Classes are the last dimension: for images or volumes ``(B, C, H, W)`` pass ``logits.movedim(1, -1)``.

    Args:
        student_logits: as for ``bilateral_loss``.
        teacher_logits: as for ``bilateral_loss``.
        target: labels or probabilities, as for ``bilateral_loss``; also the target of the cross-entropy.

    Keyword Args:
        kd_temperature: softens both softmaxes of the KL term; positive. The term is scaled by its square. Default 4.
        bilateral_temperature: softens both softmaxes of the bilateral loss: the ``temperature`` of ``bilateral_loss``.
            Default 2.
        ce_weight: weight of the cross-entropy with ``target``. Default 0.1.
        kd_weight: weight of the KL term (summed over classes, mean over samples). Default 0.9.
        bilateral_weight: weight of the bilateral loss. Default 4.
        label_smoothing: the share of the cross-entropy target, in [0, 1), that is spread uniformly over the classes of the
            batch. Default 0.
        contrast_temperature, class_wise_weight, sample_wise_weight, positives, similarity, ignore_index, group,
            compare_ranks, backend: as for ``bilateral_loss``.
        return_terms: also return the unweighted terms. Default False.

    Returns:
        As for ``bilateral_loss``, with ``BicKDTerms`` as terms.

    Raises:
        TypeError: as for ``bilateral_loss``, and for a missing target.
        ValueError, RuntimeError: as for ``bilateral_loss``.
    """
    return evaluate("bickd_loss", options, student_logits, teacher_logits, target)


def evaluate(
    name: str, options: Options | dict[str, Any], student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None
) -> Any:
    """The loss ``name``, and its terms if the options ask for them.

    Args:
        name: ``"bilateral_loss"`` or ``"bickd_loss"``.
        options: its record, or the keyword arguments to build it from.
        student_logits, teacher_logits, target: as for the functions.
    """
    if isinstance(options, dict):
        group, compared = options.get("group"), options.get("compare_ranks", True)
    else:
        group, compared = options.group, options.compare_ranks
    arguments = name, options, student_logits, teacher_logits, target
    if group is None or not compared or torch.compiler.is_compiling():
        record, backend = _checked(*arguments)
    else:
        with failure_told_to(group):
            record, backend = _checked(*arguments)
    teacher_logits = teacher_logits.detach()
    if backend == "reference":
        loss, terms = _by_definition(name, record, student_logits, teacher_logits, target)
    else:
        options_of_call = operator.flattened(record, name, backend)
        loss, terms = operator.loss(student_logits, teacher_logits, target, *options_of_call)
    if not record.return_terms:
        return loss
    return loss, BicKDTerms(*terms.unbind()) if name == "bickd_loss" else BilateralTerms(*terms[2:].unbind())


def _checked(
    name: str, options: Options | dict[str, Any], student_logits: Any, teacher_logits: Any, target: Any
) -> tuple[Options, str]:
    """Checks all arguments; returns the options and the resolved backend name."""
    record = make_options(name, options) if isinstance(options, dict) else options
    if target is None and name == "bickd_loss":
        raise TypeError("target must be a torch.Tensor, got None; bilateral_loss works without targets")
    check_inputs(student_logits, teacher_logits, target, record.positives)
    dtype = compute_dtype(student_logits, teacher_logits)
    return record, choice.resolve(record.backend, student_logits.device, dtype)


def _by_definition(
    name: str, options: Options, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Loss and terms from ``reference``, differentiable by autograd."""
    group = options.group_of_several
    call = Call(student_logits, teacher_logits, target, name, options, "reference", group)
    with torch.autocast(student_logits.device.type, enabled=False):
        if group is not None:
            return global_batch.reference(call)
        return reference.loss_and_terms(*call.checked())


def _signature(function: Any, name: str) -> inspect.Signature:
    """The function's signature, with the options of its record and their defaults in place of ``**options``."""
    tensors = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type)
        for option in fields(KINDS[name])
    ]
    return inspect.signature(function).replace(parameters=[*tensors, *options])


bilateral_loss.__signature__ = _signature(bilateral_loss, "bilateral_loss")  # type: ignore[attr-defined]
bickd_loss.__signature__ = _signature(bickd_loss, "bickd_loss")  # type: ignore[attr-defined]
