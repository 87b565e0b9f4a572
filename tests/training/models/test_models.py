"""The models by name: sizes from the definitions of the literature, shapes, initialization, and names that are refused."""

import math
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.models import MODELS, check_model, make_model
from training.models.wide_resnet import PreActivationBlock

SIZES = ((32, 32), (28, 28), (12, 20), (14, 28), (64, 64))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def convolution(before: int, after: int, side: int = 3) -> int:
    return side * side * before * after


def norm(width: int) -> int:
    return 2 * width


def linear(before: int, after: int) -> int:
    return (before + 1) * after


def residual_network(blocks: int, stem: int, stages: Sequence[int], classes: int = 100) -> int:
    """A norm after each convolution, and a 1 x 1 convolution with a norm where a shortcut changes the width."""
    total, before = convolution(3, stem) + norm(stem), stem
    for width in stages:
        if before != width:
            total += convolution(before, width, 1) + norm(width)
        total += convolution(before, width) + norm(width)
        total += (2 * blocks - 1) * (convolution(width, width) + norm(width))
        before = width
    return total + linear(before, classes)


def wide_residual_network(blocks: int, widening: int, classes: int = 100) -> int:
    """A norm before each convolution of a block and one after the last block; convolutions without norms as shortcuts."""
    total, before = convolution(3, 16), 16
    for width in (16 * widening, 32 * widening, 64 * widening):
        if before != width:
            total += convolution(before, width, 1)
        total += norm(before) + convolution(before, width)
        total += (2 * blocks - 1) * (norm(width) + convolution(width, width))
        before = width
    return total + norm(before) + linear(before, classes)


def vgg(widths: Sequence[int], classes: int = 100) -> int:
    """Convolutions with biases, each with a norm."""
    pairs = zip((3, *widths), widths, strict=False)
    return sum(convolution(*pair) + pair[1] + norm(pair[1]) for pair in pairs) + linear(widths[-1], classes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet8", residual_network(1, 16, (16, 32, 64))),
        ("resnet14", residual_network(2, 16, (16, 32, 64))),
        ("resnet20", residual_network(3, 16, (16, 32, 64))),
        ("resnet32", residual_network(5, 16, (16, 32, 64))),
        ("resnet56", residual_network(9, 16, (16, 32, 64))),
        ("resnet110", residual_network(18, 16, (16, 32, 64))),
        ("resnet8x4", residual_network(1, 32, (64, 128, 256))),
        ("resnet32x4", residual_network(5, 32, (64, 128, 256))),
        ("wrn_16_2", wide_residual_network(2, 2)),
        ("wrn_40_1", wide_residual_network(6, 1)),
        ("wrn_40_2", wide_residual_network(6, 2)),
        ("vgg8", vgg((64, 128, 256, 512, 512))),
        ("vgg13", vgg((64, 64, 128, 128, 256, 256, 512, 512, 512, 512))),
    ],
)
def test_parameter_counts_match_the_definitions_layer_by_layer(name: str, expected: int) -> None:
    assert parameters(make_model(name, 3, 100)) == expected


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 0.27), ("resnet32", 0.46), ("resnet56", 0.85), ("resnet110", 1.7)]
)
def test_parameter_counts_of_residual_networks_match_table_6_of_their_paper(name: str, millions: float) -> None:
    # The table is for 10 classes and for shortcuts without parameters.
    shortcuts = convolution(16, 32, 1) + norm(32) + convolution(32, 64, 1) + norm(64)
    size = (parameters(make_model(name, 3, 10)) - shortcuts) / 1e6
    assert round(size, 2 if millions < 1 else 1) == millions


@pytest.mark.parametrize(
    ("name", "count"),
    # As users of the reference definitions report for 100 classes; for the other networks nobody gives all digits.
    [("resnet32x4", 7_433_860), ("wrn_16_2", 703_284), ("wrn_40_2", 2_255_156)],
)
def test_parameter_counts_match_the_reported_ones(name: str, count: int) -> None:
    assert parameters(make_model(name, 3, 100)) == count


@pytest.mark.parametrize(
    "name", ["cnn_small", "cnn_large", "resnet20", "resnet8x4", "wrn_16_2", "wrn_40_1", "vgg8", "vgg13"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_with_one_or_three_channels_give_logits(name: str, channels: int) -> None:
    model = make_model(name, channels, 7).eval()
    for size in SIZES:
        with torch.no_grad():
            logits = model(torch.zeros(2, channels, *size))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()


def test_every_name_is_a_different_model() -> None:
    with torch.device("meta"):
        for name, make in MODELS.items():
            check_model("student", name)
            assert make(3, 10)(torch.zeros(2, 3, 32, 32)).shape == (2, 10), name
    assert len({parameters(make(3, 10)) for make in MODELS.values()}) == len(MODELS)


@pytest.mark.parametrize(("size", "side"), [((32, 32), 4), ((64, 64), 4), ((12, 20), 2)])
def test_vgg_pools_three_times_and_large_images_once_more(size: tuple[int, int], side: int) -> None:
    seen: list[Tensor] = []
    model = make_model("vgg8", 3, 10).eval()
    last = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)][-1]
    last.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    model(torch.zeros(1, 3, *size))
    assert seen[0].shape[:3] == (1, 512, side)


def test_pre_activation_carries_inputs_unchanged_past_a_block_of_zeros() -> None:
    inputs = torch.randn(2, 16, 8, 8)
    same, wider = PreActivationBlock(16, 16, 1), PreActivationBlock(16, 32, 2)
    nn.init.zeros_(same.second.weight)
    nn.init.zeros_(wider.second.weight)
    torch.testing.assert_close(same(inputs), inputs)
    mean, variance = inputs.mean((0, 2, 3), keepdim=True), inputs.var((0, 2, 3), unbiased=False, keepdim=True)
    activated = ((inputs - mean) / (variance + 1e-5).sqrt()).clamp_min(0)
    weight = wider.get_submodule("shortcut").weight
    expected = torch.einsum("oi,nihw->nohw", weight[:, :, 0, 0], activated[:, :, ::2, ::2])
    torch.testing.assert_close(wider(inputs), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "vgg8"])
def test_convolutions_start_as_kaiming_normal_by_fan_out_and_norms_as_identities(name: str) -> None:
    torch.manual_seed(0)
    for layer in make_model(name, 3, 100).modules():
        if isinstance(layer, nn.Conv2d):
            expected = math.sqrt(2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels))
            assert layer.weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * layer.weight.numel()))
            assert layer.bias is None or not layer.bias.any()
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


def test_depths_that_no_network_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 2"):
        type(make_model("resnet20", 3, 10))(3, 10, depth=21)
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 4"):
        type(make_model("wrn_16_2", 3, 10))(3, 10, depth=18, widening=1)


def test_names_of_torchvision_give_its_models_without_weights() -> None:
    with torch.device("meta"):
        plain, prefixed = make_model("resnet18", 3, 5), make_model("torchvision:resnet18", 3, 5)
        assert type(plain) is type(prefixed)
        assert type(plain).__module__ == "torchvision.models.resnet"
        assert plain(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
        # A plain name prefers the model of this suite; the prefix selects torchvision's.
        assert type(make_model("vgg13", 3, 5)).__module__ == "training.models.vgg"
        assert type(make_model("torchvision:vgg13", 3, 5)).__module__ == "torchvision.models.vgg"


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_models_with_auxiliary_classifiers_give_logits_alone_in_training(name: str, side: int) -> None:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        logits = make_model(name, 3, 5).train()(torch.zeros(2, 3, side, side))
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 5)


def test_torchvision_models_accept_only_three_channels() -> None:
    with pytest.raises(ValueError, match="channels must be 3 for resnet18 of torchvision, got 1"):
        make_model("resnet18", 1, 10)


@pytest.mark.parametrize("name", ["vit", "torchvision:resnet20", "torchvision:", "fcn_resnet50", "", "ResNet18"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^teacher must be one of cnn_large, .*timm:NAME, got '{name}'$"):
        check_model("teacher", name)
    with pytest.raises(ValueError, match=r"^name must be one of"):
        make_model(name, 3, 10)


def test_a_timm_model_without_timm_is_refused_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"student .*pip install timm.*'timm:resnet50'"):
        check_model("student", "timm:resnet50")


def test_models_of_timm_are_made_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_model(name: str, **arguments: Any) -> nn.Module:
        calls.append((name, arguments))
        return nn.Identity()

    stub = types.ModuleType("timm")
    stub.__dict__.update(create_model=create_model, is_model=lambda name: name == "vit_tiny_patch16_224")
    monkeypatch.setitem(sys.modules, "timm", stub)
    check_model("student", "timm:vit_tiny_patch16_224")
    assert not calls
    make_model("timm:vit_tiny_patch16_224", 1, 10)
    assert calls == [("vit_tiny_patch16_224", {"pretrained": False, "num_classes": 10, "in_chans": 1})]
    with pytest.raises(ValueError, match="student must be a model of timm after timm:, got 'timm:nothing'"):
        check_model("student", "timm:nothing")
