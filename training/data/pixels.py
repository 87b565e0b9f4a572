"""Reads image files with Pillow as 8-bit RGB; a file with several images yields the first.

16-bit values are scaled to 8 bits. An image whose white level is undefined, such as a floating-point image, is refused.
Transparency is dropped, and the stored orientation of the pixels is kept, as torchvision does for ImageNet.
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
"""Modes of more than 8 bits, and the formats for which Pillow returns [0, 65535], or for TIFF up to its own maximum."""


class UndefinedRangeError(ValueError):
    """An image file does not define the range of its values."""


def read_rgb(path: "str | PathLike[str]") -> Image.Image:
    """The image in the file at ``path``; errors as in ``decode_rgb``."""
    with open(path, "rb") as file:
        return decode_rgb(file)


def decode_rgb(file: BinaryIO) -> Image.Image:
    """The image in an open file.

    Raises:
        Exception: whatever a decoder raises for a damaged file.
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
    """Unsigned integers scaled to 8 bits and rounded."""
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
    """The formats that Pillow decodes by itself, without those that need another program or that nothing decodes."""
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
"""In lower case; MPO is read as the JPEG that it begins with."""
