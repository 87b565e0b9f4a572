"""With which settings a saved run goes on, and with which it is refused."""

from pathlib import Path
from typing import Any

import pytest

from training.config import Config
from training.storage.resume import load_state, save_state

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
def test_a_run_goes_on_elsewhere_and_in_another_manner(changed: dict[str, Any], folder: Path) -> None:
    state = load_state(folder, Config(**{**SAVED, **changed}))
    assert state is not None
    assert state["epoch"] == 2


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"epochs": 4}, "epochs 3 then and 4 now"),
        ({"seed": 1, "precision": "bf16"}, "precision 'float32' then and 'bf16' now, seed 0 then and 1 now"),
        # Epochs repeat the cached views: the student would see other images.
        ({"teacher_cache": Path("cache")}, "teacher_cache None then and 'cache' now"),
    ],
)
def test_a_run_with_other_settings_is_refused_by_name(changed: dict[str, Any], told: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"has other settings: {told}$"):
        load_state(folder, Config(**{**SAVED, **changed}))


def test_a_cache_may_be_moved(tmp_path: Path) -> None:
    cached = {**SAVED, "teacher_cache": Path("cache")}
    save_state(tmp_path, {"config": Config(**cached).as_dict(), "epoch": 2})  # type: ignore[typeddict-item]
    assert load_state(tmp_path, Config(**{**cached, "teacher_cache": Path("moved")})) is not None
