"""The initialization of He et al., Delving Deep into Rectifiers (arXiv 1502.01852), as the reference networks use it."""

from torch import nn


def initialize_convolutions(model: nn.Module) -> None:
    """Kaiming normal weights by fan out for every convolution of ``model``, and zeros for their biases."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
