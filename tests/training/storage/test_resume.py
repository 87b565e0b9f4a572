"""The settings and data with which a saved run may be resumed, and those with which it is refused."""

from pathlib import Path
from typing import Any

import pytest

from training.config import Config
from training.data.identity import Identity, Part
from training.storage.resume import load_state, refuse_other_data, save_state

SAVED: dict[str, Any] = {"method": "kd", "teacher_checkpoint": Path("teacher.pt"), "epochs": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_state(tmp_path, {"config": Config(**SAVED).as_dict(), "epoch": 2})  # type: ignore[typeddict-item]
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    [
        {"workers": 3},
        {"device": "cpu"},
        {"strict_data": True},
        {"checkpoint_minutes": 1.0},
        {"resume": True},
        {"data": Path("moved")},
        {"output": Path("moved")},
        {"teacher_checkpoint": Path("moved.pt")},
    ],
)
def test_a_run_may_be_resumed_with_other_paths_and_execution_settings(changed: dict[str, Any], folder: Path) -> None:
    state = load_state(folder, Config(**{**SAVED, **changed}))
    assert state is not None
    assert state["epoch"] == 2


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"epochs": 4}, "epochs 3 then and 4 now"),
        ({"seed": 1, "precision": "bf16"}, "precision 'float32' then and 'bf16' now, seed 0 then and 1 now"),
        # The student would see other images.
        ({"views": 2}, "views None then and 2 now"),
    ],
)
def test_a_run_with_other_settings_is_refused_by_name(changed: dict[str, Any], difference: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"has other settings: {difference}$"):
        load_state(folder, Config(**{**SAVED, **changed}))


@pytest.mark.parametrize("cache", [None, Path("moved")])
def test_a_cache_may_be_moved_or_left_out(cache: Path | None, tmp_path: Path) -> None:
    cached = {**SAVED, "views": 2, "teacher_cache": Path("cache")}
    save_state(tmp_path, {"config": Config(**cached).as_dict(), "epoch": 2})  # type: ignore[typeddict-item]
    assert load_state(tmp_path, Config(**{**cached, "teacher_cache": cache})) is not None


CLASSES = ("ant", "bee")
DATA = Identity(CLASSES, {"train": Part(18, "aa"), "test": Part(9, "bb")})


def test_a_run_may_be_resumed_with_its_data_at_another_path(folder: Path) -> None:
    refuse_other_data(folder, {"data": DATA.as_dict()}, DATA)  # type: ignore[typeddict-item]
    moved = {"method": "ce", "dataset": "folder:/there"}
    save_state(folder, {"config": Config(**moved, epochs=3).as_dict(), "epoch": 2})  # type: ignore[typeddict-item]
    assert load_state(folder, Config(method="ce", epochs=3, dataset="folder:here/")) is not None


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        (Identity(CLASSES, {**DATA.parts, "train": Part(19, "ab")}), "train 18 samples sha256:aa then and 19 samples"),
        (Identity(CLASSES, {**DATA.parts, "test": Part(9, "ab")}), "test 9 samples sha256:bb then and 9 samples sha256:ab"),
        (Identity(("ant", "cat"), DATA.parts), "2 classes instead of 2, without bee and with cat"),
        (Identity(("bee", "ant"), DATA.parts), "classes in another order: class 0 was 'ant' and is 'bee'"),
    ],
)
def test_a_run_with_other_data_is_refused_by_name(now: Identity, difference: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"had other data: {difference}"):
        refuse_other_data(folder, {"data": DATA.as_dict()}, now)  # type: ignore[typeddict-item]


def test_a_checkpoint_that_does_not_record_its_data_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="does not record its data"):
        refuse_other_data(folder, {}, DATA)  # type: ignore[typeddict-item]
