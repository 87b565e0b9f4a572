"""Implementations of a distillation loss from logits: every backend of the bilateral loss, other losses, and bare products.

    reference   the formulas of ``bickd_kernels.reference``, differentiated by autograd
    compiled    the same formulas under ``torch.compile``
    torch       ``bilateral_loss(..., backend="torch")``
    triton      ``bilateral_loss(..., backend="triton")``, if there is a GPU
    products    only the matrix products of the loss and its gradient, which no exact implementation can avoid
    KD, DIST    simpler losses of the training suite, without cross-entropy, to show the extra cost of the bilateral loss
    Liger ...   the fused losses of ``liger_kernel`` on logits or probabilities, if it is installed and there is a GPU

Reference and compiled are bare formulas without argument checks or edge-case handling, which favours them.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import Case, Inputs
from benchmarks.timing import Step
from bickd_kernels import bilateral_loss, reference
from training.methods.dist import correlations
from training.methods.kd import divergence

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

OURS = ("torch", "triton")

TEMPERATURE, CONTRAST_TEMPERATURE = 2.0, 0.2
"""The defaults of ``bilateral_loss``."""

PEERS_TEMPERATURE = 4.0


class Provider(NamedTuple):
    """A loss ``(student, teacher, target) -> scalar``."""

    name: str
    loss: Loss
    is_bilateral: bool = True
    """Whether it computes the bilateral loss or a part of it; other losses compute less."""
    is_products: bool = False
    """Whether it computes only the matrix products, which are not a loss."""


def both_sides(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """The bilateral loss with default options, as bare formulas."""
    class_wise = reference.class_wise(student, teacher, TEMPERATURE, CONTRAST_TEMPERATURE)
    return class_wise + sample_side(student, teacher, target)


def sample_side(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Only its sample side."""
    return reference.sample_wise(student, teacher, target, TEMPERATURE, CONTRAST_TEMPERATURE)


def providers(case: Case, device: str, *, any_shape: bool = False) -> list[Provider]:
    """The providers that can run here, for the sides of this case.

    With ``any_shape``, the definition is compiled once for all shapes. Otherwise it is compiled for the shape that it gets;
    call ``torch.compiler.reset()`` between cases, because PyTorch compiles a function for only a few shapes.
    """
    definition = both_sides if case.class_side else sample_side

    def by(backend: str) -> Loss:
        weight = 1.0 if case.class_side else 0.0
        return lambda *batch: bilateral_loss(*batch, class_wise_weight=weight, backend=backend)

    found = [Provider("reference", definition), Provider("compiled", torch.compile(definition, dynamic=any_shape))]
    found.append(Provider("torch", by("torch")))
    if device == "cuda":
        found.append(Provider("triton", by("triton")))
    found.append(Provider("products", _no_loss, is_products=True))
    found += [Provider("KD", _kd, is_bilateral=False), Provider("DIST", _dist, is_bilateral=False)]
    return found + _liger(device)


def forward(provider: Provider, case: Case, inputs: Inputs) -> Step:
    """The loss without a gradient."""
    if provider.is_products:
        return _products(case, inputs, gradient=False)

    def step() -> None:
        with torch.no_grad():
            provider.loss(*inputs)

    return step


def forward_and_backward(provider: Provider, case: Case, inputs: Inputs) -> Step:
    """The loss and its gradient with respect to the student's logits."""
    if provider.is_products:
        return _products(case, inputs, gradient=True)

    def step() -> None:
        inputs.student.grad = None
        provider.loss(*inputs).backward()

    return step


def _products(case: Case, inputs: Inputs, *, gradient: bool) -> Step:
    """The similarities of both sides and, for the gradient, as many products with them."""
    student, teacher = inputs.student.detach(), inputs.teacher

    def step() -> None:
        similarities = [torch.mm(student, teacher.T)]
        if case.class_side:
            similarities.append(torch.mm(student.T, teacher))
        if gradient:
            torch.mm(similarities[0], teacher)
            if case.class_side:
                torch.mm(teacher, similarities[1].T)

    return step


def _no_loss(*_: Tensor) -> Tensor:
    raise TypeError("the matrix products alone are not a loss")


def _kd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return divergence(student, teacher, PEERS_TEMPERATURE)


def _dist(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    p, q = (torch.softmax(logits / PEERS_TEMPERATURE, 1) for logits in (student, teacher))
    return PEERS_TEMPERATURE**2 * (2 - correlations(p, q).mean() - correlations(p.T, q.T).mean())


def _liger(device: str) -> list[Provider]:
    """Liger's KL and generalized Jensen-Shannon divergences; both take log-probabilities."""
    if device != "cuda":
        return []
    try:
        transformers = importlib.import_module("liger_kernel.transformers")
    except ImportError:
        return []
    kl, jsd = transformers.LigerKLDIVLoss(reduction="batchmean", log_target=True), transformers.LigerJSD(beta=0.5)

    def logarithms(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return torch.log_softmax(student / TEMPERATURE, 1), torch.log_softmax(teacher / TEMPERATURE, 1)

    return [
        Provider("Liger KL", lambda student, teacher, _: kl(*logarithms(student, teacher)), is_bilateral=False),
        Provider("Liger JSD", lambda student, teacher, _: jsd(*logarithms(student, teacher)), is_bilateral=False),
    ]
