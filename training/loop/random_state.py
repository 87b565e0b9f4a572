"""The states of all random number generators that a run may use, as tensors and plain values."""

import random
from typing import Any

import numpy as np
import torch

from training.seeds import derived_seed


def seed_everything(seed: int, rank: int) -> None:
    """Seeds Python, NumPy and PyTorch, on every device, differently in every process."""
    derived = derived_seed("global", seed, rank)
    random.seed(derived)
    np.random.seed(derived)
    torch.manual_seed(derived)


def capture() -> dict[str, Any]:
    """The current states."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, following = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        # weights_only loading does not accept NumPy arrays.
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), following],
    }


def restore(states: dict[str, Any]) -> None:
    """Restores the states that ``capture`` returned, except those of GPUs that no longer exist."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for index, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, index)
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, following = states["python"]
    random.setstate((version, tuple(internal), following))
