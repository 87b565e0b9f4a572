"""What holds for every test: the number of threads, repeatable examples, no backend chosen from outside.

``BICKD_TEST_THREADS`` sets how many threads PyTorch has in a test process; without it, an xdist worker has one. PyTorch itself
reads ``ATEN_CPU_CAPABILITY``, which makes it leave out instructions that the machine has. ``make test-machines`` sets both.
"""

import os

import pytest
import torch
from conditions import KERNELS_CAN_RUN
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("repeatable")

# xdist workers share the cores: more threads than cores make tiny operations slow.
threads = os.environ.get("BICKD_TEST_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "")
if threads:
    torch.set_num_threads(int(threads))


def pytest_report_header() -> list[str]:
    return [] if KERNELS_CAN_RUN else ["the kernels are NOT tested: that needs Python 3.11, triton and ttsem (make install)"]


@pytest.fixture(autouse=True)
def no_backend_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BICKD_BACKEND", raising=False)


@pytest.fixture(params=["torch", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that runs on a CPU: the analytic gradient, and the definition differentiated by autograd."""
    return request.param
