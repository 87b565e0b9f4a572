"""A teacher's logits on disk: the cache returns only rows that were written completely and under the same conditions."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training.loop.logit_cache import LogitCache, fingerprint


def open_cache(folder: Path, teacher: str = "abc", views: int = 2) -> LogitCache:
    return LogitCache(folder, {"teacher": teacher, "transform": "crop"}, views=views, samples=6, classes=4)


def test_rows_come_back_in_the_requested_order_after_the_cache_is_opened_again(tmp_path: Path) -> None:
    logits = torch.randn(3, 4)
    open_cache(tmp_path).put(1, torch.tensor([5, 0, 2]), logits)
    kept = open_cache(tmp_path).get(1, torch.tensor([2, 5]))
    assert kept is not None
    assert torch.equal(kept, logits[[2, 0]])


def test_a_batch_with_a_row_that_was_never_written_is_missing(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(0, torch.tensor([1, 2]), torch.zeros(2, 4))
    assert cache.get(0, torch.tensor([1, 2])) is not None
    assert cache.get(0, torch.tensor([1, 3])) is None
    assert cache.get(1, torch.tensor([1, 2])) is None


def test_a_row_that_was_changed_on_disk_is_missing(tmp_path: Path) -> None:
    open_cache(tmp_path).put(0, torch.arange(6), torch.randn(6, 4))
    path = tmp_path / "view-0.logits"
    content = bytearray(path.read_bytes())
    content[2 * 4 * 4 + 5] ^= 1
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
