"""Providers compute the losses of their names, and the products alone are exactly those of the loss."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from cases import settings_of
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Case, make_inputs
from benchmarks.providers import Provider, forward, forward_and_backward, providers
from benchmarks.work import least_bytes, product_flops
from bickd_kernels import bilateral_loss
from bickd_kernels.backends import torch as torch_backend
from bickd_kernels.backends.contract import Batch
from training.methods.dist import DistillationFromStrongerTeacher
from training.methods.kd import KnowledgeDistillation
from training.methods.method import Samples
from training.models.output import Output

BOTH, SAMPLES = Case("both", 6, 11), Case("samples", 6, 11, class_side=False)


def by_name(case: Case) -> dict[str, Provider]:
    return {provider.name: provider for provider in providers(case, "cpu")}


@pytest.mark.parametrize("case", [BOTH, SAMPLES])
@pytest.mark.parametrize("name", ["reference", "torch"])
def test_a_bilateral_provider_computes_the_bilateral_loss(name: str, case: Case) -> None:
    inputs = make_inputs(case)
    expected = bilateral_loss(*inputs, class_wise_weight=1.0 if case.class_side else 0.0, backend="reference")
    (gradient,) = torch.autograd.grad(expected, inputs.student)
    provider = by_name(case)[name]
    assert provider.is_bilateral
    torch.testing.assert_close(provider.loss(*inputs), expected)
    forward_and_backward(provider, case, inputs)()
    torch.testing.assert_close(inputs.student.grad, gradient)


@pytest.mark.parametrize("name", ["reference", "torch", "KD", "DIST"])
def test_forward_leaves_no_gradient_and_backward_leaves_one(name: str) -> None:
    inputs = make_inputs(BOTH)
    provider = by_name(BOTH)[name]
    forward(provider, BOTH, inputs)()
    assert inputs.student.grad is None
    for _ in range(2):
        forward_and_backward(provider, BOTH, inputs)()
    once = inputs.student.grad
    torch.testing.assert_close(once, torch.autograd.grad(provider.loss(*inputs), inputs.student)[0])


METHODS = {
    "KD": KnowledgeDistillation(ce_weight=0.0, kd_weight=1.0),
    "DIST": DistillationFromStrongerTeacher(ce_weight=0.0, dist_weight=1.0),
}


@pytest.mark.parametrize("name", list(METHODS))
def test_the_simpler_losses_are_those_of_the_trainer(name: str) -> None:
    inputs = make_inputs(BOTH)
    samples = Samples(target=inputs.target, index=torch.arange(6))
    expected, _ = METHODS[name](Output(inputs.student), Output(inputs.teacher), samples)
    assert not by_name(BOTH)[name].is_bilateral
    torch.testing.assert_close(by_name(BOTH)[name].loss(*inputs), expected)


@pytest.mark.parametrize("case", [BOTH, SAMPLES])
def test_the_products_alone_have_the_flops_of_the_formula(case: Case) -> None:
    inputs = make_inputs(case)
    with FlopCounterMode(display=False) as both:
        forward_and_backward(by_name(case)["products"], case, inputs)()
    with FlopCounterMode(display=False) as alone:
        forward(by_name(case)["products"], case, inputs)()
    assert both.get_total_flops() == product_flops(case) == 2 * alone.get_total_flops()


@pytest.mark.parametrize("case", [BOTH, SAMPLES])
def test_the_torch_backend_computes_no_other_products(case: Case) -> None:
    # Not through the operator, whose products a counter does not see.
    settings = settings_of("bilateral", class_wise_weight=1.0 if case.class_side else 0.0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch_backend.compute(Batch(*make_inputs(case)), settings, slice(None))
    assert counter.get_total_flops() == product_flops(case)


def test_least_bytes_are_both_logits_the_gradient_and_the_targets() -> None:
    inputs = make_inputs(BOTH)
    assert least_bytes(BOTH) == 2 * inputs.student.nbytes + inputs.teacher.nbytes + inputs.target.nbytes


def test_on_a_gpu_the_kernels_and_installed_peers_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    assert [provider.name for provider in providers(BOTH, "cuda")][-1] == "DIST"
    assert "triton" in [provider.name for provider in providers(BOTH, "cuda")]

    asked: list[dict[str, object]] = []
    peers = ModuleType("liger_kernel.transformers")
    peers.LigerKLDIVLoss = lambda **options: asked.append(options) or SimpleNamespace()  # type: ignore[attr-defined]
    peers.LigerJSD = lambda **options: asked.append(options) or SimpleNamespace()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", peers)
    assert [provider.name for provider in providers(BOTH, "cuda")][-2:] == ["Liger KL", "Liger JSD"]
    assert asked == [{"reduction": "batchmean", "log_target": True}, {"beta": 0.5}]
    assert "Liger KL" not in [provider.name for provider in providers(BOTH, "cpu")]
