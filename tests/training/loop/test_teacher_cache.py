"""A teacher's output on disk: the cache returns only rows that were written completely and under the same conditions."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training.loop.teacher_cache import TeacherCache, fingerprint
from training.models import Output


def open_cache(folder: Path, teacher: str = "abc", views: int = 2, features: int | None = 3) -> TeacherCache:
    description = {"teacher": teacher, "transform": "crop"}
    return TeacherCache(folder, description, views=views, samples=6, classes=4, features=features)


def output(rows: int) -> Output:
    return Output(torch.randn(rows, 4), torch.randn(rows, 3))


def test_rows_come_back_in_the_requested_order_after_the_cache_is_opened_again(tmp_path: Path) -> None:
    stored = output(3)
    open_cache(tmp_path).put(1, torch.tensor([5, 0, 2]), stored)
    kept = open_cache(tmp_path).get(1, torch.tensor([2, 5]))
    assert kept is not None
    assert torch.equal(kept.logits, stored.logits[[2, 0]])
    assert kept.features is not None
    assert stored.features is not None
    assert torch.equal(kept.features, stored.features[[2, 0]])


def test_a_batch_with_a_row_that_was_never_written_is_missing(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(0, torch.tensor([1, 2]), output(2))
    assert cache.get(0, torch.tensor([1, 2])) is not None
    assert cache.get(0, torch.tensor([1, 3])) is None
    assert cache.get(1, torch.tensor([1, 2])) is None


def test_a_cache_with_features_shares_the_logits_of_one_without(tmp_path: Path) -> None:
    index, stored = torch.arange(6), output(6)
    open_cache(tmp_path, features=None).put(0, index, Output(stored.logits))
    with_features = open_cache(tmp_path)
    assert with_features.get(0, index) is None
    with_features.put(0, index, stored.map(lambda part: part + 1))
    kept = open_cache(tmp_path, features=None).get(0, index)
    assert kept is not None
    assert torch.equal(kept.logits, stored.logits + 1)
    assert kept.features is None


@pytest.mark.parametrize(("name", "width"), [("logits", 4), ("features", 3)])
def test_a_row_that_was_changed_on_disk_is_missing(tmp_path: Path, name: str, width: int) -> None:
    open_cache(tmp_path).put(0, torch.arange(6), output(6))
    path = tmp_path / f"view-0.{name}"
    content = bytearray(path.read_bytes())
    content[2 * width * 4 + 5] ^= 1
    path.write_bytes(content)
    cache = open_cache(tmp_path)
    assert cache.get(0, torch.tensor([2])) is None
    assert cache.get(0, torch.tensor([1, 3])) is not None


@pytest.mark.parametrize(
    ("teacher", "views", "expected"), [("xyz", 2, "teacher 'abc' in the cache, 'xyz' now"), ("abc", 3, "views 2")]
)
def test_a_cache_made_under_other_conditions_is_refused(tmp_path: Path, teacher: str, views: int, expected: str) -> None:
    open_cache(tmp_path)
    with pytest.raises(ValueError, match=expected):
        open_cache(tmp_path, teacher, views)


def test_the_fingerprint_of_a_model_depends_on_weights_and_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    first = fingerprint(model)
    assert fingerprint(model) == first
    with torch.no_grad():
        model[0].weight[1, 1] += 1e-6
    second = fingerprint(model)
    model[1].running_var[2] += 1e-6
    assert len({first, second, fingerprint(model)}) == 3
