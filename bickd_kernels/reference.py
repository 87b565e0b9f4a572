"""The definition of the losses in plain PyTorch, differentiated by autograd: the oracle of the tests.

    P, Q = softmax(x/t), softmax(y/t);   k = contrast_temperature
    class_wise  = InfoNCE(M / k),  M = Pc.T @ Qc,  Pc and Qc with columns of length 1
    sample_wise = InfoNCE(R / k),  R = Pr @ Qr.T,  Pr and Qr with rows of length 1
    InfoNCE(L)  = mean_i  1/2 [ logsumexp_j L_ij + logsumexp_j L_ji - sum_j (w_ij + w_ji) L_ij ]
    kd          = T^2 mean_a KL(softmax(y_a/T) || softmax(x_a/T))
    bilateral   = class_weight * class_wise + sample_weight * sample_wise
    bickd       = ce_weight * cross_entropy(x, l) + kd_weight * kd + bilateral_weight * bilateral

It keeps matrices of C x C and B x B for backward, and waits for the device where a mask selects rows or classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bickd_kernels.arguments import Settings, check_settings
from bickd_kernels.backends.contract import Batch, compute_dtype, flattened
from bickd_kernels.call import Call, check
from bickd_kernels.processes import exchange
from bickd_kernels.processes.group import ProcessGroup
from bickd_kernels.processes.slices import Slices
from bickd_kernels.terms import BicKDTerms, BilateralTerms


def unit_log(logits: Tensor, temperature: float, dim: int) -> Tensor:
    """Probabilities ``softmax(logits / temperature)``, their vectors along ``dim`` scaled to length 1 in log space."""
    log_probabilities = F.log_softmax(logits / temperature, dim=1)
    # Relative to the largest of its vector: beside logarithms of -1e7 that of the length would be lost to rounding.
    relative = log_probabilities - log_probabilities.detach().amax(dim, keepdim=True)
    return torch.exp(relative - 0.5 * torch.logsumexp(2 * relative, dim, keepdim=True))


def info_nce(scores: Tensor, positives: Tensor) -> Tensor:
    """Symmetric InfoNCE of scores ``(n, n)`` with positive weights ``(n, n)`` whose rows sum to 1."""
    both = torch.logsumexp(scores, dim=1) + torch.logsumexp(scores, dim=0)
    return 0.5 * (both - ((positives + positives.T) * scores).sum(dim=1)).mean()


def class_wise(student: Tensor, teacher: Tensor, temperature: float, contrast_temperature: float) -> Tensor:
    """The class side of logits ``(B, C)``."""
    similarity = unit_log(student, temperature, dim=0).T @ unit_log(teacher, temperature, dim=0)
    positives = torch.eye(len(similarity), dtype=student.dtype, device=student.device)
    return info_nce(similarity / contrast_temperature, positives)


def sample_wise(
    student: Tensor, teacher: Tensor, target: Tensor | None, temperature: float, contrast_temperature: float
) -> Tensor:
    """The sample side of logits ``(B, C)``; positives by ``target`` ``(B,)``, or each sample its own."""
    similarity = unit_log(student, temperature, dim=1) @ unit_log(teacher, temperature, dim=1).T
    labels = torch.arange(len(student), device=student.device) if target is None else target
    same = (labels[:, None] == labels).to(student.dtype)
    return info_nce(similarity / contrast_temperature, same / same.sum(dim=1, keepdim=True))


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The KL term of logits ``(B, C)``; a class of teacher probability 0 adds 0."""
    log_p, log_q = F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    divergence = torch.where(log_q.exp() == 0, 0.0, log_q.exp() * (log_q - log_p))
    return temperature**2 * divergence.sum(dim=1).mean()


def compute(call: Call) -> tuple[Tensor, Tensor]:
    """Loss and terms ``(4,)`` of a checked call."""
    batch = flattened(call.student, call.teacher, call.target)
    settings = check_settings(call.numbers, ignore_index=call.ignore_index, wanted=call.wanted)
    with torch.autocast(call.student.device.type, enabled=False):
        if call.slices is None:
            return loss_and_terms(batch, settings)
        loss, terms = loss_and_terms(_global_batch(batch, call.slices), settings)
    # The value is the loss, the gradient k times its own: data-parallel training takes the mean over k ranks.
    return loss.detach() + call.slices.ranks * (loss - loss.detach()), terms


def _global_batch(batch: Batch, slices: Slices) -> Batch:
    """The batches of all ranks, one below the other; a gradient goes to this rank's student."""
    tensors = [batch.student.detach(), batch.teacher] + ([] if batch.target is None else [batch.target])
    student, teacher, *target = exchange.gather_rows(slices, *tensors)
    own = slices.own
    student = torch.cat((student[: own.start], batch.student, student[own.stop :]))
    return Batch(student, teacher, target[0] if target else None)


def loss_and_terms(batch: Batch, settings: Settings) -> tuple[Tensor, Tensor]:
    """Loss and terms ``(4,)`` of logits ``(B, C)`` and int64 targets ``(B,)``; a term that is not computed is 0."""
    dtype = compute_dtype(batch.student, batch.teacher)
    x, y, target = batch.student.to(dtype), batch.teacher.to(dtype), batch.target
    if target is not None:
        valid = target != settings.ignore_index
        x, y, target = x[valid], y[valid], target[valid]
    zero = x.new_zeros(())
    if len(x) == 0 or settings.nothing_computed:
        return x[:0].sum(), zero.expand(4)

    t, k = settings.temperature, settings.contrast_temperature
    ce_term = kd_term = class_term = sample_term = zero
    if settings.ce_weight is not None and target is not None:
        ce_term = F.cross_entropy(x, target)
    present = ((x != -torch.inf).any(dim=0)) & ((y != -torch.inf).any(dim=0))
    # Without a class in common there is nothing to compare: no number is right.
    x, y = (z[:, present] if present.any() else z * torch.nan for z in (x, y))
    if settings.kd_weight is not None:
        kd_term = kd(x, y, settings.kd_temperature)
    if settings.class_weight is not None:
        class_term = class_wise(x, y, t, k)
    if settings.sample_weight is not None:
        sample_term = sample_wise(x, y, target, t, k)
    terms = (ce_term, kd_term, class_term, sample_term)
    loss = x[:0].sum() + sum(weight * term for weight, term in zip(settings.weights, terms, strict=True) if weight)
    return loss, torch.stack(terms).detach()


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
    backend: str = "reference",
) -> Tensor | tuple[Tensor, BilateralTerms]:
    """``bickd_kernels.bilateral_loss`` by definition; ``backend`` is taken for the sake of one signature and not used."""
    numbers = {
        "temperature": temperature,
        "contrast_temperature": contrast_temperature,
        "class_weight": class_weight,
        "sample_weight": sample_weight,
    }
    call = check(
        student_logits, teacher_logits, target, numbers,
        ignore_index=ignore_index, return_terms=return_terms, group=group, backend="reference",
    )  # fmt: skip
    loss, terms = compute(call)
    return (loss, BilateralTerms(*terms[2:].unbind())) if return_terms else loss


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
    backend: str = "reference",
) -> Tensor | tuple[Tensor, BicKDTerms]:
    """``bickd_kernels.bickd_loss`` by definition; ``backend`` is taken for the sake of one signature and not used."""
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
        ignore_index=ignore_index, return_terms=return_terms, group=group, backend="reference",
    )  # fmt: skip
    loss, terms = compute(call)
    return (loss, BicKDTerms(*terms.unbind())) if return_terms else loss
