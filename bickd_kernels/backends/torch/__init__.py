"""The losses and their analytic gradient in PyTorch operations, panel by panel, on any device.

Reading order: ``selection`` says which samples and classes take part, ``rows`` has the terms of each sample by itself,
``vectors`` the unit vectors that ``contrast`` compares, ``gradient`` the sums; ``loss`` puts them together.
"""

from bickd_kernels.backends.torch.loss import compute

__all__ = ["compute"]
