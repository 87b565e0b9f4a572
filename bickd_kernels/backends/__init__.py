"""The choice of a backend by name.

``contract`` says what a backend is; every other module here is one, and knows none of the others.
"""

import os

from bickd_kernels.backends import tiled
from bickd_kernels.backends.contract import Backend

BACKENDS = ("auto", "torch", "triton", "reference")
"""What ``backend=`` and the environment variable ``BICKD_BACKEND`` take."""


def resolve(name: str) -> str:
    """The backend that ``name`` means: ``"torch"``, ``"triton"`` or ``"reference"``.

    ``"auto"`` means what ``BICKD_BACKEND`` says and, where that is unset or ``auto`` too, ``"torch"``.

    Raises:
        ValueError: a name, or a value of the environment variable, that is no backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name != "auto":
        return name
    name = os.environ.get("BICKD_BACKEND", "auto")
    if name not in BACKENDS:
        raise ValueError(f"the environment variable BICKD_BACKEND must be one of {', '.join(BACKENDS)}, got {name!r}")
    return "torch" if name == "auto" else name


def load(name: str) -> Backend:
    """The function of a resolved backend that computes terms and gradient.

    Raises:
        NotImplementedError: ``"triton"``, which this version does not have.
    """
    if name == "triton":
        raise NotImplementedError('backend "triton" is not part of this version; use "auto", "torch" or "reference"')
    return tiled.compute
