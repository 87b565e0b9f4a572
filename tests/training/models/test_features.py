"""Pooled features are the inputs of a model's classifier, with gradients; nothing is kept between forward passes."""

import copy
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.models import Network, make_model

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Pooled(nn.Module):
    """A convolution, the mean over pixels and a classifier, followed by a decoy that is not the classifier."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, classes)
        self.decoy = nn.Linear(8, classes + 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.convolution(images).relu().mean((2, 3)))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("cnn_small", 256), ("resnet20", 64), ("resnet8x4", 256), ("wrn_16_2", 128), ("wrn_40_1", 64), ("vgg8", 512),
    ],
)  # fmt: skip
def test_the_features_of_our_models_are_the_inputs_of_their_classifier(name: str, width: int) -> None:
    model = make_model(name, 3, 5).eval()
    output = Network(model, 5).eval()(IMAGES, features=True)
    assert output.features is not None
    assert Network(model, 5).feature_width == width
    assert output.features.shape == (4, width)
    layer = model.get_submodule("classifier")
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(output.logits, output.features @ layer.weight.T + layer.bias)
    torch.testing.assert_close(output.logits, model(IMAGES))


def test_features_of_a_torchvision_resnet_are_the_mean_over_the_pixels_of_its_last_stage() -> None:
    model = make_model("resnet18", 3, 5).eval()
    images = torch.randn(2, 3, 64, 64)
    hidden = model.get_submodule("maxpool")(model.get_submodule("bn1")(model.get_submodule("conv1")(images)).relu())
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        hidden = model.get_submodule(stage)(hidden)
    output = Network(model, 5)(images, features=True)
    torch.testing.assert_close(output.features, hidden.mean((2, 3)))
    torch.testing.assert_close(output.logits, model(images))


@pytest.mark.parametrize(
    ("name", "width"), [("vit_b_32", 768), ("swin_t", 768), ("convnext_tiny", 768), ("densenet121", 1024)]
)
def test_classifiers_of_other_families_are_found(name: str, width: int) -> None:
    with torch.device("meta"):
        network = Network(make_model(name, 3, 5), 5)
        output = network(torch.zeros(2, 3, 224, 224), features=True)
    assert output.features is not None
    assert network.feature_width == width == output.features.shape[1]


def test_the_last_layer_with_as_many_outputs_as_classes_is_the_classifier() -> None:
    model = Pooled()
    output = Network(model, 5)(IMAGES, features=True)
    torch.testing.assert_close(output.features, model.convolution(IMAGES).relu().mean((2, 3)))


def test_the_layer_that_timm_names_is_the_classifier() -> None:
    class Named(Pooled):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 5)

        def get_classifier(self) -> nn.Module:
            return self.head

    assert Network(Named(), 5).feature_width == 8


def test_logits_come_without_features_unless_asked_for() -> None:
    network = Network(Pooled(), 5)
    output = network(IMAGES)
    assert output.features is None
    torch.testing.assert_close(output.logits, network.model(IMAGES))


def test_a_model_without_a_linear_layer_gives_logits_and_reports_that_it_has_no_features() -> None:
    network = Network(make_model("squeezenet1_1", 3, 5), 5).eval()
    assert network(IMAGES).logits.shape == (4, 5)
    with pytest.raises(ValueError, match=r"SqueezeNet gives no features: it has no nn\.Linear with 5 outputs"):
        network(IMAGES, features=True)
    with pytest.raises(ValueError, match="SqueezeNet gives no features"):
        _ = network.feature_width


def test_a_classifier_of_pixels_gives_logits_but_no_pooled_features() -> None:
    class PerPixel(Pooled):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.convolution(images).flatten(2).mT).mean(1)

    network = Network(PerPixel(), 5)
    assert network(IMAGES).logits.shape == (4, 5)
    with pytest.raises(ValueError, match=r"PerPixel gives no pooled features: .*\(4, 900, 8\) instead of \(4, 8\)"):
        network(IMAGES, features=True)


def test_a_classifier_that_is_not_used_gives_no_features() -> None:
    class Bypassed(Pooled):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) @ torch.ones(3, 5)

    with pytest.raises(ValueError, match="Bypassed gives no pooled features"):
        Network(Bypassed(), 5)(IMAGES, features=True)


def test_logits_are_taken_from_an_object_and_other_results_are_refused() -> None:
    class Wrapped(Pooled):
        def forward(self, images: Tensor) -> SimpleNamespace:  # type: ignore[override]
            return SimpleNamespace(logits=super().forward(images))

    class Listed(Pooled):
        def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
            return [super().forward(images)]

    model = Wrapped()
    output = Network(model, 5)(IMAGES, features=True)
    torch.testing.assert_close(output.logits, model(IMAGES).logits)
    with pytest.raises(TypeError, match=r"Listed must give logits or an object with \.logits, got list"):
        Network(Listed(), 5)(IMAGES)


def test_gradients_flow_through_features_to_the_layers_below_the_classifier() -> None:
    model = Pooled()
    output = Network(model, 5)(IMAGES, features=True)
    assert output.features is not None
    output.features.square().sum().backward()
    assert model.head.weight.grad is None
    (expected,) = torch.autograd.grad(model.convolution(IMAGES).relu().mean((2, 3)).square().sum(), model.convolution.weight)
    torch.testing.assert_close(model.convolution.weight.grad, expected)


@pytest.mark.parametrize("features", [False, True])
def test_nothing_is_kept_between_forward_passes(features: bool) -> None:
    model = Pooled()
    network = Network(model, 5)
    alive: list[weakref.ref[Tensor]] = []
    model.head.register_forward_pre_hook(lambda layer, inputs: alive.append(weakref.ref(inputs[0])))
    output = network(IMAGES, features=features)
    model(IMAGES)
    del output
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_a_forward_pass_that_fails_leaves_nothing_behind() -> None:
    class Failing(Pooled):
        fails = True

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            if self.fails:
                raise RuntimeError("out of memory")
            return logits

    model = Failing()
    network = Network(model, 5)
    alive: list[weakref.ref[Tensor]] = []
    model.head.register_forward_pre_hook(lambda layer, inputs: alive.append(weakref.ref(inputs[0])))
    with pytest.raises(RuntimeError, match="out of memory"):
        network(IMAGES, features=True)
    gc.collect()
    assert alive[0]() is None
    model.fails = False
    assert network(IMAGES).features is None


def test_the_model_keeps_its_state_and_a_copy_gives_its_own_features() -> None:
    model = Pooled()
    names = set(model.state_dict())
    network = Network(model, 5)
    assert set(model.state_dict()) == names
    assert set(network.state_dict()) == {f"model.{name}" for name in names}
    copied = copy.deepcopy(network)
    nn.init.zeros_(network.model.get_submodule("convolution").weight)
    with torch.no_grad():
        expected = copied.model.get_submodule("convolution")(IMAGES).relu().mean((2, 3))
        torch.testing.assert_close(copied(IMAGES, features=True).features, expected)


def test_features_have_the_precision_of_autocast() -> None:
    network = Network(Pooled(), 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(IMAGES, features=True)
    assert output.features is not None
    assert (output.logits.dtype, output.features.dtype) == (torch.bfloat16, torch.bfloat16)
    expected = network(IMAGES, features=True).features
    assert expected is not None
    # Images, weights, pixels and their mean are rounded to 8 bits, each by up to 2^-9 of the sum of absolute products.
    layer = network.model.get_submodule("convolution")
    products = nn.functional.conv2d(IMAGES.abs(), layer.weight.abs(), layer.bias.abs()).mean((2, 3))
    assert ((output.features.float() - expected).abs() <= 4 * 2**-9 * products).all()


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_networks_give_the_same_output_and_gradients(features: bool, in_place: bool) -> None:
    network = Network(make_model("resnet8x4", 3, 5), 5).eval()
    expected = network(IMAGES, features=features)
    (gradient,) = torch.autograd.grad(total(expected), network.model.get_submodule("features.0").weight)
    torch.compiler.reset()
    compiled = network
    if in_place:
        network.compile(backend="eager")
    else:
        compiled = torch.compile(network, backend="eager")
    for _ in range(2):
        output = compiled(IMAGES, features=features)
        torch.testing.assert_close(output.logits, expected.logits)
        assert (output.features is None) is (expected.features is None)
        if expected.features is not None:
            torch.testing.assert_close(output.features, expected.features)
        (compiled_gradient,) = torch.autograd.grad(total(output), network.model.get_submodule("features.0").weight)
        torch.testing.assert_close(compiled_gradient, gradient)


def total(output: tuple[Tensor, Tensor | None]) -> Tensor:
    return sum((part.square().sum() for part in output if part is not None), torch.zeros(()))


@pytest.mark.usefixtures("process_group")
def test_distributed_networks_average_the_gradients_of_features() -> None:
    network = Network(Pooled(), 5)
    copied = copy.deepcopy(network)
    copied.model.get_submodule("decoy").requires_grad_(False)
    wrapped = nn.parallel.DistributedDataParallel(copied)
    for module in (network, wrapped):
        total(module(IMAGES, features=True)).backward()
    weights = [module.model.get_submodule("convolution").weight for module in (network, copied)]
    assert weights[0].grad is not None
    torch.testing.assert_close(weights[1].grad, weights[0].grad)
