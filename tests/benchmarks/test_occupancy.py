"""How many programs share a multiprocessor, against limits computed by hand."""

import pytest

from benchmarks.devices import Multiprocessor
from benchmarks.occupancy import Resources, programs_per_multiprocessor

AMPERE = Multiprocessor(164 * 1024)


@pytest.mark.parametrize(
    ("resources", "programs"),
    [
        # 128 registers for 32 threads are 4096; the 16384 of a partition hold 4 warps, a multiprocessor 16.
        (Resources(4, 128, 0), 4),
        # 85 for 32 threads are 2720, allocated as 11 units of 256, or 2816: a partition holds 5 warps, 4 partitions 20.
        # In one piece 65536 would hold 23, and without units a partition would hold 6.
        (Resources(1, 85, 0), 20),
        (Resources(8, 255, 0), 1),
        # A partition holds two warps and a multiprocessor 8: 16 do not fit.
        (Resources(16, 255, 0), 0),
    ],
)
def test_registers_are_allocated_to_whole_warps_within_a_partition(resources: Resources, programs: int) -> None:
    assert programs_per_multiprocessor(resources, AMPERE) == programs


@pytest.mark.parametrize(
    ("shared_bytes", "programs"),
    # With the 1024 bytes of the driver 40 KB are 41 KB, a quarter of 164 KB. 54954 bytes are 55978 with them, a third of
    # 164 KB, but 438 units of 128 and thus 56064.
    [(40 * 1024, 4), (40 * 1024 + 1, 3), (54954, 2), (163 * 1024, 1), (163 * 1024 + 1, 0)],
)
def test_shared_memory_is_allocated_in_units_and_includes_that_of_the_driver(shared_bytes: int, programs: int) -> None:
    assert programs_per_multiprocessor(Resources(1, 16, shared_bytes), AMPERE) == programs


@pytest.mark.parametrize(("warps", "programs"), [(8, 8), (4, 16), (2, 32), (1, 32)])
def test_a_multiprocessor_holds_at_most_64_warps_and_32_programs(warps: int, programs: int) -> None:
    assert programs_per_multiprocessor(Resources(warps, 16, 0), AMPERE) == programs
