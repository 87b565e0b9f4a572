"""Selects a backend by name."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os

import torch

from bickd_kernels.backends.contract import Backend

BACKENDS = ("auto", "torch", "triton", "reference")
"""The values of ``backend=`` and of the environment variable ``BICKD_BACKEND``."""

OLDEST_TRITON = (3, 4)
"""The first Triton version with every feature that the kernels use."""

TRITON_PACKAGES = ("triton", "triton-rocm", "pytorch-triton", "pytorch-triton-rocm")
"""The package names of Triton, for NVIDIA and for AMD."""


def has_triton() -> bool:
    """Whether Triton 3.4 or later is installed. Does not import it, because that is slow."""
    if importlib.util.find_spec("triton") is None:
        return False
    for name in TRITON_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return tuple(int(part) for part in importlib.metadata.version(name).split(".")[:2]) >= OLDEST_TRITON
    # Built from source under another package name.
    return True


HAS_TRITON = has_triton()


def check_name(name: str) -> str:
    """The requested backend: ``name``, or the value of ``BICKD_BACKEND`` if the name is ``"auto"``.

    Raises:
        ValueError: the name, or the value of the environment variable, is not a backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name != "auto":
        return name
    name = os.environ.get("BICKD_BACKEND", "auto")
    if name not in BACKENDS:
        raise ValueError(f"the environment variable BICKD_BACKEND must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def resolve(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that computes a batch: ``"torch"``, ``"triton"`` or ``"reference"``.

    Unless ``BICKD_BACKEND`` is set, ``"auto"`` selects ``"triton"`` on NVIDIA and AMD GPUs (PyTorch calls both ``cuda``) if
    Triton 3.4 or later is installed, and ``"torch"`` otherwise and for float64.

    Raises:
        ValueError: as ``check_name``, and ``"triton"`` for a batch that it does not support.
        ImportError: ``"triton"`` if Triton is not installed or too old.
    """
    name = check_name(name)
    if name == "auto":
        fits = device.type == "cuda" and dtype != torch.float64
        return "triton" if HAS_TRITON and fits else "torch"
    if name == "triton":
        _check_triton(device, dtype)
    return name


def _check_triton(device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cuda":
        raise ValueError(f'backend "triton" needs logits on a GPU, got {device}; use "auto" or "torch"')
    if dtype == torch.float64:
        raise ValueError('backend "triton" computes in float32, got float64 logits; use "auto" or "torch"')
    if not HAS_TRITON:
        raise ImportError('backend "triton" needs the package triton >= 3.4; use "auto" or "torch"')


def load(name: str) -> Backend:
    """The backend ``"torch"`` or ``"triton"``.

    The first call that uses a backend imports it, because importing Triton is slow.
    """
    return importlib.import_module(f"bickd_kernels.backends.{name}")
