"""``BilateralLoss`` and ``BicKDLoss``: the functions as modules, with options that are set once."""

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from cases import make_inputs
from torch import nn

from bickd_kernels import BicKDLoss, BilateralLoss, bickd_loss, bilateral_loss

PAIRS = [pytest.param(BilateralLoss, bilateral_loss, id="bilateral"), pytest.param(BicKDLoss, bickd_loss, id="bickd")]

OPTIONS: dict[str, Any] = {
    "contrast_temperature": 0.1,
    "class_wise_weight": 0.5,
    "sample_wise_weight": 2.0,
    "ignore_index": 0,
    "positives": "sample",
    "similarity": "correlation",
}


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_a_module_takes_the_keyword_arguments_of_the_function(module: Any, function: Any) -> None:
    theirs = {
        name: (p.kind, p.default) for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    ours = {name: (p.kind, p.default) for name, p in inspect.signature(module).parameters.items()}
    assert ours == theirs


@pytest.mark.parametrize(("module", "function"), PAIRS)
@pytest.mark.parametrize("options", [{}, OPTIONS, {"return_terms": True}, {"backend": "reference"}])
def test_a_module_returns_what_the_function_returns(module: Any, function: Any, options: dict[str, Any]) -> None:
    inputs = make_inputs(8, 5)
    torch.testing.assert_close(module(**options)(*inputs), function(*inputs, **options), rtol=0, atol=0)


@pytest.mark.parametrize(
    "option", ["kd_temperature", "bilateral_temperature", "ce_weight", "kd_weight", "bilateral_weight", "label_smoothing"]
)
def test_each_option_of_bickd_loss_reaches_the_function(option: str) -> None:
    inputs = make_inputs(8, 5)
    value = 0.25 if option == "label_smoothing" else 1.25
    loss = BicKDLoss(**{option: value})(*inputs)
    assert torch.equal(loss, bickd_loss(*inputs, **{option: value}))
    assert loss != BicKDLoss()(*inputs)


@pytest.mark.parametrize("option", list(OPTIONS))
@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_each_shared_option_reaches_the_function(module: Any, function: Any, option: str) -> None:
    inputs = make_inputs(8, 5)
    loss = module(**{option: OPTIONS[option]})(*inputs)
    assert torch.equal(loss, function(*inputs, **{option: OPTIONS[option]}))
    assert loss != module()(*inputs)


def test_bilateral_loss_as_a_module_works_without_targets() -> None:
    inputs = make_inputs(8, 5)
    assert torch.equal(BilateralLoss()(*inputs[:2]), bilateral_loss(*inputs[:2]))


@pytest.mark.parametrize(("module", "function"), PAIRS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_a_copy_of_a_module_is_the_same_loss(module: Any, function: Any, copied: Any) -> None:
    inputs = make_inputs(8, 5)
    original = module(**OPTIONS)
    duplicate = copied(original)
    assert duplicate is not original
    assert type(duplicate) is module
    assert torch.equal(duplicate(*inputs), function(*inputs, **OPTIONS))


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_a_module_has_no_state_and_shows_its_options(module: Any, function: Any) -> None:
    loss = module(contrast_temperature=1.5)
    assert isinstance(loss, nn.Module)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert "contrast_temperature=1.5" in repr(loss)
    assert "ignore_index=-100" in repr(loss)


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_a_module_checks_its_options_when_it_is_made(module: Any, function: Any) -> None:
    with pytest.raises(ValueError, match=r"^contrast_temperature must be >= 0.02, got 0"):
        module(contrast_temperature=0)
    with pytest.raises(TypeError, match=r"has no option 'temperatur'; it has contrast_temperature, "):
        module(temperatur=2.0)
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'cuda'"):
        module(backend="cuda")
    with pytest.raises(TypeError, match=r"sample_wise_weight must be .* got str"):
        module(sample_wise_weight="1")
    with pytest.raises(TypeError, match=r"group must be .*, got object"):
        module(group=object())
    with pytest.raises(TypeError, match="positional"):
        module(2.0)


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_an_option_is_an_attribute_that_a_schedule_may_assign(module: Any, function: Any) -> None:
    inputs, loss = make_inputs(8, 5), module(class_wise_weight=3.0)
    for contrast_temperature in (0.5, 0.1):
        loss.contrast_temperature = contrast_temperature
        assert loss.contrast_temperature == contrast_temperature
        expected = function(*inputs, class_wise_weight=3.0, contrast_temperature=contrast_temperature)
        assert torch.equal(loss(*inputs), expected)
    assert loss.class_wise_weight == 3.0


@pytest.mark.parametrize(("module", "function"), PAIRS)
def test_a_value_assigned_to_an_option_is_checked(module: Any, function: Any) -> None:
    loss = module()
    with pytest.raises(ValueError, match=r"^contrast_temperature must be >= 0.02, got 0.01"):
        loss.contrast_temperature = 0.01
    with pytest.raises(TypeError, match=r"^sample_wise_weight must be a Python number, got Tensor; call \.item\(\)"):
        loss.sample_wise_weight = torch.tensor(1.0)
    assert torch.equal(loss(*make_inputs(8, 5)), function(*make_inputs(8, 5)))


def test_an_option_of_the_other_loss_is_not_an_attribute() -> None:
    with pytest.raises(AttributeError, match="kd_temperature"):
        _ = BilateralLoss().kd_temperature


def test_a_module_trains_a_student() -> None:
    inputs = make_inputs(32, 5, dtype=torch.float32)
    student = inputs.student.clone().requires_grad_()
    optimizer, loss = torch.optim.SGD([student], lr=5.0), BicKDLoss()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(student, *inputs[1:])
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < 0.9 * losses[0]
