"""Leaves the tests of the kernels out where they cannot run; the header of the test run says so."""

import pytest
from conditions import KERNELS_CAN_RUN

collect_ignore_glob = [] if KERNELS_CAN_RUN else ["test_*.py"]


@pytest.fixture(autouse=True)
def nothing_prepared() -> None:
    """Every test prepares its launches, as it may have changed what they are planned by."""
    if KERNELS_CAN_RUN:
        from bickd_kernels.backends.triton import stages

        stages.prepare.cache_clear()
