"""The definition of the losses in plain PyTorch, differentiated by autograd: ``backend="reference"``.

    P, Q = softmax(x/t), softmax(y/t);   k = contrast_temperature
    class_wise  = InfoNCE(M / k),  M = Pc.T @ Qc,  Pc and Qc with columns of length 1
    sample_wise = InfoNCE(R / k),  R = Pr @ Qr.T,  Pr and Qr with rows of length 1
    InfoNCE(L)  = mean_i  1/2 [ logsumexp_j L_ij + logsumexp_j L_ji - sum_j (w_ij + w_ji) L_ij ]
    ce          = mean_a -sum_c l_ac log softmax(x_a)_c
    kd          = T^2 mean_a KL(softmax(y_a/T) || softmax(x_a/T))
    bilateral   = class_wise_weight * class_wise + sample_wise_weight * sample_wise
    bickd       = ce_weight * ce + kd_weight * kd + bilateral_weight * bilateral

With ``similarity="correlation"``, columns and rows are centred before they are scaled to length 1. The reference stores
C x C and B x B matrices for backward, and synchronises with the device where a mask selects rows or classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bickd_kernels.backends.contract import Batch, Settings, compute_dtype
from bickd_kernels.inputs import is_labels


def unit_vectors(logits: Tensor, temperature: float, dim: int, similarity: str) -> Tensor:
    """Probabilities ``softmax(logits / temperature)``, their vectors along ``dim`` scaled to length 1, in log space."""
    log_probabilities = F.log_softmax(logits / temperature, dim=1)
    # Relative to the vector's largest entry: added to logarithms of -1e7, the logarithm of the length would be rounded away.
    relative = log_probabilities - log_probabilities.detach().amax(dim, keepdim=True)
    if similarity == "cosine":
        return torch.exp(relative - 0.5 * torch.logsumexp(2 * relative, dim, keepdim=True))
    vectors = torch.exp(relative)
    centred = vectors - vectors.mean(dim, keepdim=True)
    squares = centred.square().sum(dim, keepdim=True)
    # A constant vector has no direction; its similarity to everything is 0.
    return centred * torch.where(squares == 0, 0.0, torch.where(squares == 0, 1.0, squares).rsqrt())


def info_nce(scores: Tensor, positives: Tensor) -> Tensor:
    """Symmetric InfoNCE of scores ``(n, n)`` with positive weights ``(n, n)`` whose rows sum to 1."""
    both = torch.logsumexp(scores, dim=1) + torch.logsumexp(scores, dim=0)
    return 0.5 * (both - ((positives + positives.T) * scores).sum(dim=1)).mean()


def class_wise(
    student: Tensor, teacher: Tensor, temperature: float, contrast_temperature: float, similarity: str = "cosine"
) -> Tensor:
    """The class-wise term of logits ``(B, C)``."""
    u, z = (unit_vectors(logits, temperature, 0, similarity) for logits in (student, teacher))
    return info_nce(u.T @ z / contrast_temperature, torch.eye(u.shape[1], dtype=u.dtype, device=u.device))


def sample_wise(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    temperature: float,
    contrast_temperature: float,
    similarity: str = "cosine",
) -> Tensor:
    """The sample-wise term of logits ``(B, C)``; samples of one label ``(B,)`` are positives, or each sample its own."""
    u, z = (unit_vectors(logits, temperature, 1, similarity) for logits in (student, teacher))
    labels = torch.arange(len(u), device=u.device) if labels is None else labels
    same = (labels[:, None] == labels).to(u.dtype)
    return info_nce(u @ z.T / contrast_temperature, same / same.sum(dim=1, keepdim=True))


def cross_entropy(logits: Tensor, target: Tensor, present: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of logits ``(B, C)``; targets are ``(B,)`` labels or ``(B, C)`` probabilities, class mask ``(C,)``."""
    expected = F.one_hot(target, logits.shape[1]) if is_labels(target) else target
    uniform = present.to(logits.dtype) / present.sum().clamp(min=1)
    expected = (1 - smoothing) * expected.to(logits.dtype) + smoothing * uniform
    # A class of probability 0 adds 0, even where its logarithm is infinite.
    return -torch.where(expected == 0, 0.0, expected * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The KL term of logits ``(B, C)``; a class of teacher probability 0 adds 0."""
    log_p, log_q = F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    divergence = torch.where(log_q.exp() == 0, 0.0, log_q.exp() * (log_q - log_p))
    return temperature**2 * divergence.sum(dim=1).mean()


def loss_and_terms(batch: Batch, settings: Settings) -> tuple[Tensor, Tensor]:
    """The loss, differentiable with respect to the student, and the terms ``(4,)``, 0 where not computed."""
    dtype = compute_dtype(batch.student, batch.teacher)
    x, y, target = batch.student.to(dtype), batch.teacher.to(dtype), batch.target
    if target is not None:
        valid = target != settings.ignore_index if is_labels(target) else (target != 0).any(dim=1)
        x, y, target = x[valid], y[valid], target[valid]
    zero = x.new_zeros(())
    if len(x) == 0:
        return x[:0].sum(), zero.expand(4)

    t, k, similarity = settings.temperature, settings.contrast_temperature, settings.similarity
    ce_term = kd_term = class_term = sample_term = zero
    present = ((x != -torch.inf).any(dim=0)) & ((y != -torch.inf).any(dim=0))
    if settings.computed.ce and target is not None:
        ce_term = cross_entropy(x, target, present, settings.label_smoothing)
    # Without a common class there is nothing to compare, and no number would be right.
    x, y = (z[:, present] if present.any() else z * torch.nan for z in (x, y))
    if settings.computed.kd:
        kd_term = kd(x, y, settings.kd_temperature)
    if settings.computed.class_wise:
        class_term = class_wise(x, y, t, k, similarity)
    if settings.computed.sample_wise:
        labels = target if settings.by_label and is_labels(target) else None
        sample_term = sample_wise(x, y, labels, t, k, similarity)
    terms = (ce_term, kd_term, class_term, sample_term)
    loss = x[:0].sum() + sum(weight * term for weight, term in zip(settings.weights, terms, strict=True) if weight != 0)
    return loss, torch.stack(terms).detach()
