"""One seed per run, from which the seeds of all random numbers are derived."""

import hashlib


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed in [0, 2^32) for ``purpose`` and ``numbers``, such as a run's seed and an epoch.

    It is a hash, because PyTorch's CPU generator keeps only the lower 32 bits of a seed: the sum of a seed and a shifted
    counter would repeat the same random numbers.
    """
    text = ",".join((purpose, *map(str, numbers)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
