"""One seed for a run, and from it the seeds of everything that is random."""

import hashlib


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed in [0, 2^32) for ``purpose`` and ``numbers``, such as a run's seed and an epoch.

    It is hashed, because PyTorch's generator on the CPU keeps only the lower 32 bits of a seed: sums of a seed and a shifted
    counter would give the same random numbers again and again.
    """
    text = ",".join((purpose, *map(str, numbers)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
