"""Settings of every test: PyTorch's threads, repeatable hypothesis examples, and no backend from the environment.

``BICKD_TEST_THREADS`` sets the number of PyTorch threads in a test process; without it, an xdist worker has one.
``ATEN_CPU_CAPABILITY``, which PyTorch reads itself, limits the CPU instructions to ``default`` or ``avx2``.
"""

import getpass
import os
import tempfile
from pathlib import Path

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

if "ATEN_CPU_CAPABILITY" in os.environ:
    # TorchInductor's cache ignores the instruction set: code cached for a larger one fails to build for a smaller one.
    cache = f"torchinductor_{getpass.getuser()}_{os.environ['ATEN_CPU_CAPABILITY']}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / cache))


def pytest_report_header() -> list[str]:
    return [] if KERNELS_CAN_RUN else ["the kernels are NOT tested: that needs Python 3.11, triton and ttsem (make install)"]


@pytest.fixture(autouse=True)
def no_backend_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BICKD_BACKEND", raising=False)


@pytest.fixture(params=["torch", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that runs on a CPU: the analytic gradient, and the definition under autograd."""
    return request.param
