"""How often the kernels read the logits and write the gradient, and all their bytes against the benchmarks' formulas."""

from typing import Any

import pytest
import torch
from cases import Inputs, make_inputs
from checks import step
from simulate import simulator
from traffic import LaunchTraffic, count_traffic

from benchmarks.kernel_traffic import training_step
from bickd_kernels.backends.triton import planning

GENERAL = [
    "sample_statistics",
    "class_statistics",
    "similarity_tiles",
    "derivative_tiles",
    "slope_tiles",
    "logit_gradient",
]


def launches_of(inputs: Inputs, **options: Any) -> list[LaunchTraffic]:
    """The launches of one training step."""
    with simulator(races="off"), count_traffic() as launches:
        step("bickd", inputs, **options)
    return launches


def traffic_of(inputs: Inputs, **options: Any) -> dict[str, LaunchTraffic]:
    """The launches of one training step that launches no kernel twice, by kernel name."""
    launches = launches_of(inputs, **options)
    by_kernel = {traffic.kernel: traffic for traffic in launches}
    assert len(by_kernel) == len(launches)
    return by_kernel


@pytest.fixture(scope="module")
def general_step() -> tuple[Inputs, dict[str, LaunchTraffic]]:
    inputs = make_inputs(70, 200, dtype=torch.bfloat16)
    return inputs, traffic_of(inputs)


def test_the_statistics_read_each_logit_once(general_step: tuple[Inputs, dict[str, LaunchTraffic]]) -> None:
    inputs, traffic = general_step
    assert list(traffic) == GENERAL
    for kernel in ("sample_statistics", "class_statistics"):
        for logits in (inputs.student, inputs.teacher):
            assert (traffic[kernel].counts_of(logits).loads == 1).all()
            assert (traffic[kernel].counts_of(logits).stores == 0).all()


@pytest.mark.parametrize("shape", [(5, 37), (9, 150)])
def test_the_statistics_read_each_logit_of_unaligned_rows_once(shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, dtype=torch.float32)
    traffic = traffic_of(inputs)
    for kernel in ("sample_statistics", "class_statistics"):
        for logits in (inputs.student, inputs.teacher):
            assert (traffic[kernel].counts_of(logits).loads == 1).all()


def test_the_gradient_kernel_reads_logits_at_most_twice_and_writes_each_entry_once(
    general_step: tuple[Inputs, dict[str, LaunchTraffic]],
) -> None:
    inputs, traffic = general_step
    counts = traffic["logit_gradient"]
    assert (counts.counts_of(inputs.student).loads == 2).all()
    assert (counts.counts_of(inputs.teacher).loads == 1).all()
    assert (counts.counts["gradient"].stores == 1).all()
    assert (counts.counts["gradient"].loads == 0).all()


def test_products_read_no_logits(general_step: tuple[Inputs, dict[str, LaunchTraffic]]) -> None:
    inputs, traffic = general_step
    for kernel in ("similarity_tiles", "derivative_tiles", "slope_tiles"):
        with pytest.raises(KeyError):
            traffic[kernel].counts_of(inputs.student)


@pytest.mark.parametrize("shape", [(70, 200), (130, 50), (20, 1000)])
@pytest.mark.parametrize(("dtype", "parts"), [(torch.bfloat16, 1), (torch.float32, 2)])
def test_every_kernel_requests_the_bytes_of_the_formulas(dtype: torch.dtype, parts: int, shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, dtype=dtype)
    works = {work.kernel: work for work in training_step(*shape, inputs.student.element_size(), parts)}
    for kernel, traffic in traffic_of(inputs).items():
        assert traffic.requested_bytes == works[kernel].requested, kernel


@pytest.mark.parametrize("kept_bytes", [0, 4 * 64 * 64 * 4])
def test_panels_request_the_bytes_of_the_formulas(kept_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels of both sides, or of the class side alone."""
    monkeypatch.setattr(planning, "CACHED_BYTES", kept_bytes)
    monkeypatch.setattr(planning, "KEPT_BYTES", kept_bytes)
    traffic = launches_of(make_inputs(70, 200, dtype=torch.float32))
    works = [work for work in training_step(70, 200, 4, 2) if work.programs is not None]
    assert [(launch.kernel, launch.requested_bytes) for launch in traffic] == [
        (work.kernel, work.requested) for work in works
    ]


@pytest.mark.parametrize(("dtype", "parts"), [(torch.bfloat16, 1), (torch.float32, 2)])
def test_centred_vectors_request_the_bytes_of_the_formulas(dtype: torch.dtype, parts: int) -> None:
    inputs = make_inputs(70, 200, dtype=dtype)
    works = {work.kernel: work for work in training_step(70, 200, inputs.student.element_size(), parts, centred=True)}
    for kernel, traffic in traffic_of(inputs, similarity="correlation").items():
        assert traffic.requested_bytes == works[kernel].requested, kernel


def test_every_kernel_touches_the_compulsory_bytes_of_the_formulas() -> None:
    traffic = traffic_of(make_inputs(70, 200, dtype=torch.float32))
    for work in training_step(70, 200, 4, 2):
        if work.programs is None:
            continue
        # The formulas count a partial sum that is written and read as one buffer, and likewise labels with two uses.
        assert traffic[work.kernel].compulsory_bytes == pytest.approx(work.compulsory, rel=0.05), work.kernel
