"""Asynchronous copies to the training device."""

import torch
from torch import Tensor


def transfer(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; to a GPU it is copied from pinned memory, behind the work that the GPU still has."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
