"""Leaves out the kernel tests where they cannot run; the header of the test run says so."""

import pytest
from conditions import KERNELS_CAN_RUN

collect_ignore_glob = [] if KERNELS_CAN_RUN else ["test_*.py"]


@pytest.fixture(autouse=True)
def nothing_prepared() -> None:
    """Forgets prepared launches, because a test may change the parameters that they are planned with."""
    if KERNELS_CAN_RUN:
        from bickd_kernels.backends.triton import stages

        stages.prepare.cache_clear()
