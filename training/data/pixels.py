"""Files of images as Pillow reads them, in RGB of 8 bits; a file of several images gives its first.

Values of 16 bits are scaled to 8. Where nothing says which value is white, as in floating-point images, an image is refused.
Transparency is dropped, and the orientation is the one that the pixels are stored in, as torchvision reads ImageNet.
"""

from os import PathLike
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

IN_TIFF_TAGS = {"bits": 258, "photometric": 262}
WHITE_IS_ZERO = 0

WIDE = {
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), frozenset({"PNG", "TIFF", "JPEG2000"})),
    "I": frozenset({"PNG", "PPM"}),
}
"""Modes of more than 8 bits, and the formats of which Pillow gives them from 0 to 65535, of TIFF up to its own maximum."""


class UndefinedRangeError(ValueError):
    """The file of an image does not define the range of its values."""


def read_rgb(path: "str | PathLike[str]") -> Image.Image:
    """The image in the file at ``path``; errors as of ``decode_rgb``."""
    with open(path, "rb") as file:
        return decode_rgb(file)


def decode_rgb(file: BinaryIO) -> Image.Image:
    """The image in an open file.

    Raises:
        Exception: whatever a decoder raises at a damaged file.
        UndefinedRangeError: black and white are not defined.
    """
    with Image.open(file, formats=FORMATS) as image:
        if image.format in WIDE.get(image.mode, ()):
            return _scaled(image).convert("RGB")
        if image.mode in WIDE or image.mode == "F":
            raise UndefinedRangeError(f"pixels of mode {image.mode} ({image.format}) have no defined range")
        if "transparency" in image.info and image.mode == "P":
            # Pillow warns of every palette with transparency that becomes RGB at once.
            return image.convert("RGBA").convert("RGB")
        return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Unsigned integers as 8 bits, rounded."""
    bits, inverted = 16, False
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(IN_TIFF_TAGS["bits"], (16,))[0]
        inverted = tags.get(IN_TIFF_TAGS["photometric"]) == WHITE_IS_ZERO
    white = 2**bits - 1
    values = np.asarray(image).astype(np.uint32)
    scaled = ((values * 255 + white // 2) // white).clip(max=255).astype(np.uint8)
    return Image.fromarray(255 - scaled if inverted else scaled)


def _readable_formats() -> list[str]:
    """The formats that Pillow decodes by itself: not those that another program has to draw, or that nothing decodes."""
    Image.init()
    factories = {name: factory for name, (factory, _) in Image.OPEN.items()}
    stubs = {
        name
        for name, factory in factories.items()
        if isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    }
    return sorted(factories.keys() - stubs - {"EPS", "MPEG"})


FORMATS = _readable_formats()
ENDINGS = frozenset(ending for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO"))
"""In small letters; MPO is read as the JPEG that it begins with."""
