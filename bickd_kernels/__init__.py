"""BicKD, bilateral contrastive knowledge distillation (arXiv 2602.01265): an exact, fast loss that needs only logits."""

from bickd_kernels import reference
from bickd_kernels.functional import bickd_loss, bilateral_loss
from bickd_kernels.modules import BicKDLoss, BilateralLoss
from bickd_kernels.terms import BicKDTerms, BilateralTerms
from bickd_kernels.versions import warn_of_untested_torch

__version__ = "0.1.0"

__all__ = ["BicKDLoss", "BicKDTerms", "BilateralLoss", "BilateralTerms", "bickd_loss", "bilateral_loss", "reference"]

warn_of_untested_torch()
