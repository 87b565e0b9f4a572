"""The losses and their analytic gradient in PyTorch operations, panel by panel, on any device.

Reading order: ``selection`` says which samples and classes take part; ``rows`` computes the per-sample terms; ``vectors``
makes the unit vectors that ``contrast`` compares; ``gradient`` sums terms and gradients; ``loss`` combines them all.
"""

from bickd_kernels.backends.torch.loss import compute

__all__ = ["compute"]
