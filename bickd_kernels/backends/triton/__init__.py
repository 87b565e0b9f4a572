"""The losses and their gradient in fused Triton kernels.

Reading order, which is the order of the launches:

    row_statistics      every sum over the classes of a sample; cross-entropy and KL
    class_statistics    every sum over the samples of a class; the unit vectors
    contrast            similarity_tiles, slope_tiles (with the program of ``loss``): both sides of the bilateral loss
    partial_sums        between the two, where there are many tiles
    logit_gradient      in backward: all parts together, times the upstream gradient

``general`` launches them. ``small_problem`` runs the same stages in one launch. ``primitives`` holds the device functions
that kernels share, ``launch`` the launch parameters.
"""

from bickd_kernels.backends.triton.general import backward, forward

__all__ = ["backward", "forward"]
