"""Weights from elsewhere: in containers and under prefixes, with other layer names, and for models that they do not fit."""

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from published_networks import PUBLISHED, PublishedResNet
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from training.models import make_model
from training.storage import checkpoint, weights
from training.storage.weights import Fit, Weights

State = dict[str, Tensor]


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with random weights and statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + values if "running_var" in name else (values - 0.5) / max(1, tensor[0].numel()) ** 0.5)
    return model.eval()


def fit(content: Any, model: nn.Module, path: Path, **options: Any) -> Fit:
    """Saves ``content`` by ``torch.save``, reads it as the trainer does, and loads it into ``model``."""
    torch.save(content, path)
    found = weights.find(weights.read(path), path)
    fitted = weights.fit(found, model, options.pop("classes", 7), path, **options)
    model.load_state_dict(fitted.state)
    return fitted


@pytest.fixture
def source() -> nn.Module:
    return filled(make_model("resnet8x4", 3, 7))


@pytest.fixture
def target() -> nn.Module:
    return filled(make_model("resnet8x4", 3, 7), seed=1)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        *(lambda state, entry=entry: {"epoch": 3, entry: state} for entry in weights.CONTAINERS),
        lambda state: {"state_dict": {"model": state}},
        lambda state: {"weights of mine": state, "best_acc": torch.tensor(71.0)},
        lambda state: {"model": state, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}},
    ],
)
def test_a_state_dict_is_found_wherever_it_is_kept(
    wrap: Callable[[State], Any], source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    assert fit(wrap(source.state_dict()), target, tmp_path / "file.pt").notes == ()
    assert same(source, target)


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "student.", "module.student.",
            "module.student.model.", "backbone.net."]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_removed(prefix: str, source: nn.Module, target: nn.Module, tmp_path: Path) -> None:
    fit({"model": {prefix + name: value for name, value in source.state_dict().items()}}, target, tmp_path / "file.pt")
    assert same(source, target)


def test_wrappers_within_a_name_are_removed(source: nn.Module, target: nn.Module, tmp_path: Path) -> None:
    # As from a model of which only the features were wrapped.
    state = {name.replace("features.", "features.module._orig_mod."): value for name, value in source.state_dict().items()}
    fit(state, target, tmp_path / "file.pt")
    assert same(source, target)


def test_an_averaged_model_of_torch_is_read(source: nn.Module, target: nn.Module, tmp_path: Path) -> None:
    assert fit(AveragedModel(source).state_dict(), target, tmp_path / "file.pt").notes == ()
    assert same(source, target)


def test_the_student_of_a_whole_distiller_is_used_and_the_rest_is_named(
    source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    teacher = filled(make_model("resnet8x4", 3, 7), seed=5)
    state = {f"module.teacher.{name}": value for name, value in teacher.state_dict().items()}
    state |= {f"module.student.{name}": value for name, value in source.state_dict().items()}
    state["module.head.weight"] = torch.zeros(3, 3)
    fitted = fit({"model": state}, target, tmp_path / "file.pt")
    assert same(source, target)
    assert fitted.notes == (f"teacher ({len(teacher.state_dict())} tensors)", "head (1 tensors)")


def test_the_model_is_used_among_several_states_and_the_others_are_named(
    source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    other = filled(make_model("resnet8x4", 3, 7), seed=5)
    fitted = fit({"model_ema": other.state_dict(), "model": source.state_dict()}, target, tmp_path / "file.pt")
    assert same(source, target)
    assert fitted.notes == ("model_ema of the file, because model is used",)
    with pytest.raises(ValueError, match="must hold one state_dict, or one under 'model', got first, second"):
        fit({"first": other.state_dict(), "second": source.state_dict()}, target, tmp_path / "file.pt")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_checkpoints_give_the_same_logits_in_our_models(name: str, tmp_path: Path) -> None:
    published = filled(PUBLISHED[name](7))
    content = {"epoch": 240, "model": published.state_dict(), "best_acc": torch.tensor(72.0)}
    model = make_model(name, 3, 7)
    fit(content, model, tmp_path / "ckpt_epoch_240.pth")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, logits = published(images), model.eval()(images)
    # Both are the same operations on the same weights.
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_a_published_checkpoint_of_another_depth_is_refused_with_its_first_difference(tmp_path: Path) -> None:
    published = PUBLISHED["resnet20"](7)
    with pytest.raises(ValueError, match=r"does not fit: 'features.6.first.weight' of the model is not in the file"):
        fit(published.state_dict(), make_model("resnet32", 3, 7), tmp_path / "file.pt")


@pytest.mark.parametrize(("published", "model"), [("wrn_40_1", "wrn_16_2"), ("resnet20", "resnet8x4"), ("vgg13", "vgg8")])
def test_a_published_checkpoint_of_another_network_is_refused(published: str, model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not fit: .*'(features|block)\S+\.\w+'"):
        fit(PUBLISHED[published](7).state_dict(), make_model(model, 3, 7), tmp_path / "file.pt")


def test_a_deeper_network_that_begins_like_the_model_is_refused(tmp_path: Path) -> None:
    deeper = PublishedResNet(4, (16, 16, 32, 64), 7)
    with pytest.raises(ValueError, match=r"'layer1\.3\.\S+' of the file does not exist in the model"):
        fit(deeper.state_dict(), make_model("resnet20", 3, 7), tmp_path / "file.pt")


def test_tensors_in_the_right_order_under_unknown_names_are_refused(target: nn.Module, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {f"tensor{number}.weight": value for number, value in enumerate(target.state_dict().values())}
    with pytest.raises(ValueError, match=r"'features.0.weight' of the model is not in the file.*'tensor0.weight'"):
        fit(state, target, tmp_path / "file.pt")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_tensor_of_another_shape_is_named_with_both_shapes(source: nn.Module, target: nn.Module, tmp_path: Path) -> None:
    state = {
        **source.state_dict(),
        "features.4.weight": torch.zeros(2),
        "features.3.first.weight": torch.zeros(64, 31, 3, 3),
    }
    expected = r"'features.3.first.weight' of the file is \(64, 31, 3, 3\) .* is \(64, 32, 3, 3\)"
    with pytest.raises(ValueError, match=expected):
        fit(state, target, tmp_path / "file.pt")


def test_a_tensor_that_the_model_does_not_have_is_named(source: nn.Module, target: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'features\.9\.weight' of the file does not exist in the model"):
        fit({**source.state_dict(), "features.9.weight": torch.zeros(2)}, target, tmp_path / "file.pt")


def test_entries_of_profilers_are_ignored(source: nn.Module, target: nn.Module, tmp_path: Path) -> None:
    counters = {"features.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    assert fit({**source.state_dict(), **counters}, target, tmp_path / "file.pt").notes == ()
    assert same(source, target)


def test_quantized_weights_are_refused(source: nn.Module, target: nn.Module, tmp_path: Path) -> None:
    state = {**source.state_dict(), "features.0.weight": torch.zeros(32, 3, 3, 3, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"of the file is .* torch.int8,"):
        fit(state, target, tmp_path / "file.pt")


@pytest.mark.parametrize(("name", "aux"), [("googlenet", "aux1"), ("inception_v3", "AuxLogits")])
def test_auxiliary_classifiers_of_torchvision_are_left_out_and_named(name: str, aux: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = models.get_model(name, weights=None, num_classes=7, init_weights=False)
        mine = make_model(name, 3, 7)
    state = {name: torch.full(value.shape, 2.0) for name, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "file.pt")
    fitted = weights.fit(weights.find(weights.read(tmp_path / "file.pt"), tmp_path), mine, 7, tmp_path)
    assert fitted.state.keys() == mine.state_dict().keys()
    assert any(note.startswith(f"{aux} (") for note in fitted.notes)


def test_published_weights_for_another_normalization_get_inputs_transformed_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.pth"
    torch.save(models.googlenet(weights=None, num_classes=7, init_weights=False).state_dict(), path)
    arguments: dict[str, Any] = {"dataset": "imagenet", "name": "googlenet", "classes": 7}
    assert checkpoint.load(path, **arguments).model.transform_input is False
    # torchvision publishes a file under a name with the beginning of its SHA-256.
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    published = type("Weights", (), {"url": f"https://host/googlenet-{digest[:8]}.pth"})
    monkeypatch.setattr(models, "get_model_weights", lambda name: {"IMAGENET1K_V1": published})
    assert checkpoint.load(path, **arguments).model.transform_input is True


def test_published_densenets_are_read_under_their_old_layer_names(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = models.densenet121(weights=None, num_classes=7)
    names = {name: name.replace("norm1.", "norm.1.").replace("conv1.", "conv.1.") for name in model.state_dict()}
    state = {names[name]: torch.zeros(value.shape) for name, value in model.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    fitted = weights.fit(Weights(state, (), ()), model, 7, tmp_path)
    assert fitted.state.keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["resnet8x4", "torchvision:resnet18", "squeezenet1_1"])
def test_a_classifier_of_another_size_is_named_and_left_untrained_only_on_request(name: str, tmp_path: Path) -> None:
    theirs, mine = filled(make_model(name, 3, 10)), filled(make_model(name, 3, 7), seed=1)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    with pytest.raises(ValueError, match=r"its classifier '\S+' has 10 classes, and '\S+' of the model has 7$"):
        fit(theirs.state_dict(), mine, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="--new-classifier leaves it untrained"):
        fit(theirs.state_dict(), mine, tmp_path / "file.pt", new_classifier=False)
    fitted = fit(theirs.state_dict(), mine, tmp_path / "file.pt", new_classifier=True)
    (head,) = fitted.untrained
    for name, value in mine.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith(head + ".") else theirs.state_dict()[name]), name


def test_a_file_without_a_classifier_is_accepted_only_on_request(
    source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("classifier")}
    with pytest.raises(ValueError, match="has no classifier 'classifier'; --new-classifier"):
        fit(state, target, tmp_path / "file.pt", new_classifier=False)
    assert fit(state, target, tmp_path / "file.pt", new_classifier=True).untrained == ("classifier",)


def test_a_difference_in_size_outside_the_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        fit(make_model("cnn_large", 3, 10).state_dict(), make_model("cnn_small", 3, 7), tmp_path / "f", new_classifier=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_a_safetensors_file_is_read_with_its_class_names(
    name: str, source: nn.Module, target: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / name
    safetensors.torch.save_file(source.state_dict(), path, {"class_names": json.dumps(["a", "b"])})
    found = weights.find(weights.read(path), path)
    target.load_state_dict(weights.fit(found, target, 7, path).state)
    assert same(source, target)
    assert found.class_names == ("a", "b")


@pytest.mark.parametrize(
    "named", [{"class_names": ["a", "b"]}, {"classes": ("a", "b")}, {"class_to_idx": {"b": 1, "a": 0}}], ids=str
)
def test_class_names_beside_the_weights_are_read(named: dict[str, Any], source: nn.Module, tmp_path: Path) -> None:
    content = {"model": source.state_dict(), **named}
    assert weights.find(content, tmp_path).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"model": {"a.weight": torch.zeros(2)}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": {}, "best": torch.zeros(2).numpy()[0]}, "numpy"),
    ],
)
def test_a_file_with_more_than_weights_is_refused_with_advice_to_convert_it_and_not_to_trust_it(
    content: Any, named: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="holds more than weights") as refused:
        checkpoint.read(tmp_path / "file.pt")
    message = str(refused.value)
    assert named in message
    assert "In the environment that it comes from" in message
    assert "torch.save(model.state_dict(), 'weights.pt')" in message
    assert not any(word in message for word in ("weights_only", "add_safe_globals", "safe_globals", "trust"))


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, {"optimizer": {"state": {}}}, 3, torch.zeros(3)], ids=str)
def test_a_file_without_weights_is_refused_with_what_it_holds(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="must hold a checkpoint or a state_dict, got"):
        checkpoint.read(tmp_path / "file.pt")


@pytest.mark.parametrize("cut", [5, 60, 2000])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_refused(suffix: str, cut: int, source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    state = {name: value.contiguous() for name, value in source.state_dict().items()}
    torch.save(state, path) if suffix == ".pt" else safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=f"file{suffix} is damaged or not"):
        checkpoint.read(path)
