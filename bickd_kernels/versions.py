"""The newest PyTorch that the tests run on, and a warning above it."""

import warnings

import torch

NEWEST_TESTED_TORCH = (2, 14)
"""Major and minor version."""


def warn_of_untested_torch() -> None:
    """Warns the program that imports the package, once per process, if PyTorch is newer than any tested version."""
    major, minor = torch.__version__.split(".")[:2]
    if (int(major), int(minor)) > NEWEST_TESTED_TORCH:
        newest = ".".join(map(str, NEWEST_TESTED_TORCH))
        warnings.warn(
            f"bickd_kernels is tested with PyTorch up to {newest}, this is {torch.__version__}: "
            "python -m bickd_kernels checks its results on this machine",
            # The line that imports the package.
            stacklevel=3,
        )
