"""How often the kernels touch memory: logits, the gradient, and all of it against the formulas of docs/performance.md."""

import pytest
import torch
from cases import Inputs, make_inputs
from checks import step
from simulate import simulator
from traffic import LaunchTraffic, count_traffic

from bickd_kernels.backends.triton import launch
from bickd_kernels.backends.triton.row_statistics import ROW_STATISTICS

GENERAL = ["row_statistics", "class_statistics", "similarity_tiles", "slope_tiles", "logit_gradient"]


def traffic_of(inputs: Inputs) -> dict[str, LaunchTraffic]:
    """The launches of one training step, by the names of the kernels."""
    with simulator(races="off"), count_traffic() as launches:
        step("bickd", inputs)
    return {traffic.kernel: traffic for traffic in launches}


def general_bytes(samples: int, classes: int, logit_bytes: int, parts: int) -> dict[str, int]:
    """Bytes that each kernel of the general path requests for a whole training loss with targets.

    ``n`` and ``m`` are samples and classes padded to whole tiles. What every tile of a row of tiles reads counts as often
    as there are tiles.
    """
    plan = launch.plan(samples, classes, parts, launch.Target("cuda", "90", 32))
    n, m, n_tiles, m_tiles = plan.padded_samples, plan.padded_classes, plan.sample_tiles, plan.class_tiles
    logits = samples * classes * logit_bytes
    units = 2 * parts * n * m
    vectors = m_tiles * m + n_tiles * n
    entries = m_tiles * n_tiles * (m + n)
    tiles = m_tiles**2 + n_tiles**2
    statistics = int(ROW_STATISTICS.value)

    row_blocks = -(-n // plan.row_rows)
    row = 2 * logits + 4 * n * (statistics + 2) + 8 * samples * (1 + row_blocks)

    column_blocks = m // plan.column_width
    column = 2 * logits + 4 * units + 12 * m + column_blocks * 4 * (n + 6 * samples)

    # Both operands of every tile; E, both sums, and label and weight of both vectors; one number for the positives.
    similarity = 2 * units * (m_tiles + n_tiles) + 4 * (m * m + n * n) + (8 + 16) * vectors + 4 * tiles

    # E for every tile of entries and V for every tile of vectors; U for h; both sums by everyone who needs them.
    products = 4 * (m * m * n_tiles + n * n * m_tiles) + units * (m_tiles + n_tiles) + 2 * units
    results = 8 * n * m + 4 * (m * n_tiles + n * m_tiles)
    column_sums = 4 * m_tiles * n_tiles * vectors
    row_sums = 4 * entries
    labels_and_weights = 4 * entries + 8 * (m * n_tiles + n * m_tiles)
    loss = 4 * (2 * vectors + m + n + tiles + n + 4 * samples) + 28
    slope = products + results + column_sums + row_sums + labels_and_weights + loss

    # x twice and y once, Gc twice and Gr once, the gradient in float32; length and h of the classes by every block, twice.
    gradient_blocks = -(-samples // plan.row_rows)
    in_blocks = min(m, -(-classes // plan.row_block) * plan.row_block)
    of_classes = 2 * 4 * classes + 2 * 4 * in_blocks * (1 + n_tiles) + 12
    gradient = 3 * logits + 4 * 4 * samples * classes + gradient_blocks * of_classes + samples * (4 * (9 + m_tiles) + 8)

    return dict(zip(GENERAL, (row, column, similarity, slope, gradient), strict=True))


@pytest.fixture(scope="module")
def general_step() -> tuple[Inputs, dict[str, LaunchTraffic]]:
    inputs = make_inputs(70, 200, dtype=torch.bfloat16)
    return inputs, traffic_of(inputs)


def test_the_statistics_read_each_logit_once(general_step: tuple[Inputs, dict[str, LaunchTraffic]]) -> None:
    inputs, traffic = general_step
    assert list(traffic) == GENERAL
    for kernel in ("row_statistics", "class_statistics"):
        for logits in (inputs.student, inputs.teacher):
            assert (traffic[kernel].counts_of(logits).loads == 1).all()
            assert (traffic[kernel].counts_of(logits).stores == 0).all()


@pytest.mark.parametrize("shape", [(5, 37), (9, 150)])
def test_the_statistics_read_each_logit_once_whether_or_not_rows_are_aligned(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "SMALL", 0)
    inputs = make_inputs(*shape, dtype=torch.float32)
    traffic = traffic_of(inputs)
    for kernel in ("row_statistics", "class_statistics"):
        for logits in (inputs.student, inputs.teacher):
            assert (traffic[kernel].counts_of(logits).loads == 1).all()


def test_the_gradient_reads_logits_from_the_cache_and_is_written_once(
    general_step: tuple[Inputs, dict[str, LaunchTraffic]],
) -> None:
    inputs, traffic = general_step
    counts = traffic["logit_gradient"]
    assert (counts.counts_of(inputs.student).loads == 2).all()
    assert (counts.counts_of(inputs.teacher).loads == 1).all()
    assert (counts.counts["gradient"].stores == 1).all()
    assert (counts.counts["gradient"].loads == 0).all()


def test_products_touch_no_logits(general_step: tuple[Inputs, dict[str, LaunchTraffic]]) -> None:
    inputs, traffic = general_step
    for kernel in ("similarity_tiles", "slope_tiles"):
        with pytest.raises(KeyError):
            traffic[kernel].counts_of(inputs.student)


@pytest.mark.parametrize("shape", [(70, 200), (130, 50), (20, 1000)])
@pytest.mark.parametrize(("dtype", "parts"), [(torch.bfloat16, 1), (torch.float32, 2)])
def test_every_kernel_requests_the_bytes_of_the_formulas(dtype: torch.dtype, parts: int, shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, dtype=dtype)
    expected = general_bytes(*shape, inputs.student.element_size(), parts)
    for kernel, traffic in traffic_of(inputs).items():
        assert traffic.requested_bytes == expected[kernel], kernel


@pytest.mark.parametrize("shape", [(20, 30), (100, 90)])
def test_one_launch_reads_logits_from_the_cache_and_writes_the_gradient_once(shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, dtype=torch.float32)
    traffic = traffic_of(inputs)
    assert list(traffic) == ["small_problem"]
    counts = traffic["small_problem"]
    assert (counts.counts_of(inputs.student).loads == 4).all()
    assert (counts.counts_of(inputs.teacher).loads == 3).all()
    assert (counts.counts["gradient"].stores == 1).all()
