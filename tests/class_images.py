"""Images in a folder for each class, as ``folder:PATH`` and ``imagenet`` read them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Colour = int | tuple[int, int, int]


def write_class_images(
    root: Path, colours: Mapping[str, Colour], counts: Mapping[str, int], size: tuple[int, int], ending: str = "png"
) -> Path:
    """Writes ``PART/CLASS/NUMBER.ending`` for so many numbers by part: noise of deviation 20 around the colour of the class.

    Args:
        size: height and width.

    Returns:
        ``root``.
    """
    random = np.random.default_rng(0)
    for part, count in counts.items():
        for name, colour in colours.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + random.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.{ending}", quality=95)
    return root
