"""Files crafted to execute code are refused, and their code does not run."""

import dataclasses
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets as hugging_face
import numpy as np
import pytest
import safetensors.torch
import torch
from payload import Payload
from torchvision import datasets
from torchvision.models import get_model_weights

from training import train
from training.compare.__main__ import main as compare
from training.compare.comparison import Comparison
from training.config import Config
from training.data import load_splits
from training.data.torchvision_sets import load_cifar10, load_fashion_mnist
from training.loop.teacher import published
from training.loop.teacher_cache import TeacherCache
from training.models import Output
from training.storage import checkpoint
from training.storage.resume import load_state

Write = Callable[[Path, Path], None]
Main = Callable[[Sequence[str]], int]


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """The folder that the payload creates when it runs."""
    return tmp_path / "executed"


def write_pickle(path: Path, sign: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Payload(sign), protocol=2))


def write_archive(path: Path, sign: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"format": checkpoint.FORMAT, "state": Payload(sign)}, path)


WRITERS = [pytest.param(write_pickle, id="pickle"), pytest.param(write_archive, id="archive")]


def test_the_payload_runs_where_nothing_refuses_it(tmp_path: Path, sign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Importing the trainer sets it.
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    write_archive(tmp_path / "file.pt", sign)
    torch.load(tmp_path / "file.pt", weights_only=False)
    assert sign.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_malicious_teacher_checkpoint_is_refused(
    write: Write, tmp_path: Path, sign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "teacher.pt"
    write(path, sign)
    assert train.main(["--teacher-checkpoint", str(path), "--output", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert "teacher.pt is damaged or not a weights-only checkpoint: it holds more than weights (" in errors
    assert "weights_only" not in errors
    assert not sign.exists()


@pytest.mark.parametrize("option", ["--student-checkpoint", "--evaluate"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights.bin"])
@pytest.mark.parametrize("write", WRITERS)
def test_malicious_weights_are_refused(
    write: Write, name: str, option: str, tmp_path: Path, sign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / name, sign)
    arguments = ["--method", "ce", option, str(tmp_path / name), "--output", str(tmp_path / "run")]
    assert train.main(arguments) == 2
    errors = capsys.readouterr().err
    assert f"{name} is damaged or not a .safetensors file" in errors or "it holds more than weights (" in errors
    assert not sign.exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"name": 3}, {"classes": "100"}, {"channels": None}, {"state": 5}, {"state": {"a": 1}}, {"test_accuracy": "x"},
        {"class_names": 7}, {"class_names": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_with_an_entry_of_the_wrong_type_is_refused(
    entry: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "format": checkpoint.FORMAT, "name": "cnn_small", "dataset": "digits100", "channels": 1, "classes": 100,
        "test_accuracy": 1.0, "state": {"a": torch.zeros(1)}, **entry,
    }  # fmt: skip
    torch.save(content, tmp_path / "file.pt")
    assert train.main(["--teacher-checkpoint", str(tmp_path / "file.pt"), "--output", str(tmp_path / "run")]) == 2
    assert "file.pt is not a checkpoint of this version" in capsys.readouterr().err


def test_class_names_in_safetensors_metadata_that_are_not_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    safetensors.torch.save_file({"a.weight": torch.zeros(1)}, path, {"class_names": "not JSON"})
    with pytest.raises(ValueError, match=r"is damaged or not a \.safetensors file"):
        checkpoint.read(path)


@pytest.mark.parametrize("names", ["5", "[5]"])
def test_class_names_in_safetensors_metadata_that_are_not_texts_are_ignored(names: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    safetensors.torch.save_file({"a.weight": torch.zeros(1)}, path, {"class_names": names})
    assert checkpoint.read(path).weights.class_names == ()


@pytest.mark.parametrize("write", WRITERS)
def test_malicious_checkpoints_of_an_unfinished_run_are_refused(write: Write, tmp_path: Path, sign: Path) -> None:
    for name in ("last.pt", "previous.pt"):
        write(tmp_path / name, sign)
    with (
        pytest.warns(UserWarning, match="trying the previous checkpoint"),
        pytest.raises(ValueError, match=r"no checkpoint in .* can be read"),
    ):
        load_state(tmp_path, Config(method="ce", output=tmp_path))
    assert not sign.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_malicious_published_weights_on_this_machine_are_refused(
    write: Write, tmp_path: Path, sign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = get_model_weights("resnet18")["IMAGENET1K_V1"].url.rpartition("/")[2]
    write(tmp_path / "hub" / "checkpoints" / file, sign)
    with pytest.raises(ValueError, match="weights of teacher resnet18 on this machine are damaged"):
        published("resnet18")
    assert not sign.exists()


@pytest.mark.parametrize("name", ["logits", "logits.checksums", "features", "features.checksums"])
def test_a_malicious_file_in_a_teacher_cache_is_ignored(name: str, tmp_path: Path, sign: Path) -> None:
    def open_cache() -> TeacherCache:
        return TeacherCache(tmp_path, {}, views=1, samples=3, classes=4, features=2)

    open_cache().put(0, torch.arange(3), Output(torch.randn(3, 4), torch.randn(3, 2)))
    assert open_cache().get(0, torch.arange(3)) is not None
    write_pickle(tmp_path / f"view-0.{name}", sign)
    assert open_cache().get(0, torch.arange(3)) is None
    assert not sign.exists()


@pytest.mark.parametrize("content", [b"\x80\x02.", b"[1]", b"3", b"{"])
def test_a_damaged_description_of_a_teacher_cache_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "description.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^teacher_cache .* is damaged or not a cache"):
        TeacherCache(tmp_path, {}, views=1, samples=3, classes=4)


def test_a_script_beside_parquet_files_does_not_run(tmp_path: Path, sign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    folder.mkdir()
    script = folder / "hub.py"
    for path in (script, folder / "train.py"):
        path.write_text(f"open({str(sign)!r}, 'w')")
    write_pickle(folder / "train.pkl", sign)
    for part in ("train", "test"):
        rows = {"image": [np.zeros((8, 8, 3), dtype=np.uint8)] * 2, "label": [0, 1]}
        features = hugging_face.Features({"image": hugging_face.Image(), "label": hugging_face.Value("int64")})
        hugging_face.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{part}.parquet")
    with pytest.raises(ValueError, match="scripts are no longer supported"):
        load_splits(f"hf:{folder}", tmp_path)
    script.unlink()
    assert len(load_splits(f"hf:{folder}", tmp_path).test) == 2
    assert not sign.exists()


def test_malicious_cifar_pickles_are_refused(tmp_path: Path, sign: Path) -> None:
    folder = tmp_path / datasets.CIFAR10.base_folder
    for name, _ in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list, (datasets.CIFAR10.meta["filename"], "")):
        write_pickle(folder / name, sign)
    with pytest.raises(FileNotFoundError, match="corrupted"):
        load_cifar10(tmp_path)
    assert not sign.exists()


def test_malicious_fashion_mnist_files_in_the_old_torchvision_format_are_refused(tmp_path: Path, sign: Path) -> None:
    training, test = (tmp_path / "FashionMNIST" / "processed" / name for name in ("training.pt", "test.pt"))
    for path in (training, test):
        write_pickle(path, sign)
    expected = f"/FashionMNIST/raw, and remove {training.parent}: a file in it is damaged or holds more than tensors"
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_fashion_mnist(tmp_path)
    assert not sign.exists()


@pytest.mark.parametrize("main", [train.main, compare])
@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir [{sign}]",
        "output: !!python/object/apply:os.mkdir [{sign}]",
        "!!python/object/new:os.mkdir [{sign}]",
        "method: !!python/name:os.mkdir",
    ],
)
def test_a_configuration_with_yaml_tags_is_refused(
    main: Main, text: str, tmp_path: Path, sign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(text.format(sign=sign))
    with pytest.raises(SystemExit) as stopped:
        main(["--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "could not determine a constructor" in capsys.readouterr().err
    assert not sign.exists()


@pytest.mark.parametrize(
    ("main", "setting"),
    [
        pytest.param(main, field.name, id=f"{kind.__name__}-{field.name}")
        for main, kind in ((train.main, Config), (compare, Comparison))
        for field in dataclasses.fields(kind)
    ],
)
@pytest.mark.parametrize(
    "value", ["{class_path: planted.Class}", "{kd_weight: {class_path: planted.Class}}", "[{class_path: planted.Class}]"]
)
def test_a_configuration_that_names_a_class_is_refused(
    main: Main, setting: str, value: str, tmp_path: Path, sign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    (tmp_path / "planted.py").write_text(f"import os\nos.mkdir({str(sign)!r})\n\nclass Class:\n    pass\n")
    (tmp_path / "run.yaml").write_text(f"{setting}: {value}\n")
    try:
        status = main(["--config", str(tmp_path / "run.yaml")])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert not sign.exists()
