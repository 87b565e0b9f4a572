"""A test of the tests: faults planted in a copy of the kernels are caught by the checks that the kernels pass."""

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from cases import make_inputs
from checks import assert_right, step
from simulate import simulator
from ttsem.sanitize import KernelFault

import bickd_kernels.backends.triton as kernels
from bickd_kernels.backends.triton.planning import LogitTile

Planting = Callable[..., ModuleType]

_names = (f"planted_kernels_{number}" for number in itertools.count())


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planting]:
    """Copies the backend, with ``right`` replaced by ``wrong`` in one file."""
    monkeypatch.syspath_prepend(tmp_path)

    def plant(file: str, right: str, wrong: str) -> ModuleType:
        name = next(_names)
        folder = tmp_path / name
        folder.mkdir()
        for source in Path(kernels.__file__).parent.glob("*.py"):
            text = source.read_text()
            if source.name == file:
                assert text.count(right) == 1, f"{file} has {text.count(right)} times {right!r}"
                text = text.replace(right, wrong)
            (folder / source.name).write_text(text.replace("bickd_kernels.backends.triton", name))
        return importlib.import_module(name)

    yield plant
    for name in [name for name in sys.modules if name.startswith("planted_kernels_")]:
        del sys.modules[name]


def few_logits(*_: object) -> LogitTile:
    """A tile that splits rows, so that sums have to be rescaled, and leaves the last program partly filled."""
    return LogitTile(8, 32, warps=4)


def check(backend: ModuleType) -> None:
    """The check that the kernels pass, with several tiles, the last of them partly filled."""
    inputs = make_inputs(20, 150, dtype=torch.float32)
    with simulator():
        actual = step("bickd", inputs, backend)
    assert_right(actual, "bickd", inputs)


def test_a_copy_without_a_fault_passes(planted: Planting) -> None:
    check(planted("loss.py", "samples = tl.zeros", "samples = tl.zeros"))


@pytest.mark.parametrize(
    ("file", "right", "wrong", "kind"),
    [
        pytest.param(
            "sample_statistics.py",
            "x = tl.load(student_row + column[None, :], mask=inside, other=minus_infinity)",
            "x = tl.load(student_row + column[None, :])",
            "oob_read",
            id="logits read past their end",
        ),
        pytest.param(
            "logit_gradient.py",
            "stored = in_gradient[:, None] & in_row[None, :]",
            "stored = (wanted >= 0)[:, None] & in_row[None, :]",
            "oob_write",
            id="gradient written past its end",
        ),
        pytest.param(
            "similarity_tiles.py",
            "tl.store(side.partial_sums + tile_j.to(tl.int64) * vectors + i, tl.sum(e, axis=1))",
            "tl.store(side.partial_sums + i, tl.sum(e, axis=1))",
            "race",
            id="tiles that share a partial sum",
        ),
    ],
)
def test_a_memory_fault_stops_the_launch(
    planted: Planting, file: str, right: str, wrong: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = planted(file, right, wrong)
    monkeypatch.setattr(backend.stages.planning, "tile_of_logits", few_logits)
    with pytest.raises(KernelFault) as caught:
        check(backend)
    assert caught.value.fault.kind == kind


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        pytest.param(
            "sample_statistics.py",
            "tl.store(statistics + LENGTH * padded_samples, length, mask=mask)",
            "pass",
            id="a statistic never written",
        ),
        pytest.param("contrast.py", "derivative -= tl.where", "derivative += tl.where", id="pull turned into push"),
        pytest.param(
            "derivative_tiles.py",
            "of_columns = side.partial_sums + tl.cast(tiles, tl.int64) * vectors",
            "of_columns = side.partial_sums",
            id="row sums for column sums",
        ),
        pytest.param(
            "logit_gradient.py",
            "return scaled * (g - unit * h[None, :])",
            "return scaled * g",
            id="no projection of a column",
        ),
        pytest.param(
            "logit_gradient.py",
            "class_factor * (a - tl.where(inside, tl.exp2(log_p), 0.0) * sum_of_a[:, None])",
            "class_factor * a",
            id="no correction by the softmax",
        ),
        pytest.param(
            "sample_statistics.py",
            "old_maximum, new_maximum, 2.0 * scale)",
            "old_maximum, new_maximum, scale)",
            id="squares rescaled once",
        ),
        pytest.param("loss.py", "(0.5 * LN_2)", "(0.5)", id="logarithms to the base 2"),
    ],
)
def test_a_wrong_formula_fails_the_check(
    planted: Planting, file: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = planted(file, right, wrong)
    monkeypatch.setattr(backend.stages.planning, "tile_of_logits", few_logits)
    with pytest.raises(AssertionError):
        check(backend)


def test_a_copy_without_a_fault_passes_with_rows_in_several_tiles(
    planted: Planting, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = planted("loss.py", "samples = tl.zeros", "samples = tl.zeros")
    monkeypatch.setattr(backend.stages.planning, "tile_of_logits", few_logits)
    check(backend)
