"""Which tests this machine can run."""

import sys
from importlib.util import find_spec

KERNELS_CAN_RUN = sys.version_info >= (3, 11) and all(find_spec(package) for package in ("triton", "ttsem"))
"""The kernel tests execute kernels with ttsem, which needs Python 3.11 and Triton."""
